"""Atomic scattering factors f0(q) + f' + i f'' of ions at one wavelength."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.units import FloatArray, photon_energy

from .tables import f0_terms, f1_f2, ions

#: Upper limit of q (1/Å) of the Waasmaier-Kirfel fit: sin(theta)/lambda = 6 1/Å.
WAASMAIER_KIRFEL_Q_MAX = 4 * np.pi * 6.0


@dataclass(frozen=True)
class ScatteringFactor:
    """The scattering factor f(q) = f0(q) + f' + i f'' of one ion in electron units."""

    ion: str
    real: FloatArray  # (n_q,) f0 + f'
    imaginary: float  # f''


def ion_symbol(species: str, *, any_case: bool = False, tabulated: bool = True) -> str:
    """The standard name of an ion: 'Cs+' and 'Cs1+' -> 'Cs1+', 'Ti' -> 'Ti'.

    Element symbols are case-sensitive, since 'CA' is calcium in one file and the label of a carbon
    atom in another; a single letter or a symbol with a charge has only one meaning. `any_case`
    accepts 'PB' and 'pb' from sources that contain only element symbols (_atom_site_type_symbol of
    a CIF). Raises ValueError for a species whose element is not in the Waasmaier-Kirfel table, and,
    if it must be `tabulated`, for a charge that the table does not contain; the message lists the
    states of the element that it contains.
    """
    match = re.fullmatch(
        r"\s*([A-Za-z]{1,2})\s*(?:(\d*\.?\d*)([+-])|([+-])(\d+\.?\d*))?\s*", species)
    written = match.group(1) if match else species
    element = written.capitalize()
    known = ions(element) if match else ()
    if match is None or not known:
        raise ValueError(
            f"'{species}' is not an element or ion with a tabulated form factor. Write the species "
            "as in 'Pb', 'Pb2+' or 'Br1-'."
        )
    sign = match.group(3) or match.group(4)
    if len(written) == 2 and written != element and sign is None and not any_case:
        first = written[0].upper()
        other = f" or {first} (a label that begins with its element)" if ions(first) else ""
        raise ValueError(
            f"'{species}' is ambiguous: it may mean {element}{other}. Element symbols have an "
            f"upper-case and a lower-case letter. Write '{element}' in the file, or specify the "
            f"ion under 'ions' of the phase ({species.strip()}: {element})."
        )
    charge = float(match.group(2) or match.group(5) or "1")
    if sign is None or charge == 0:
        return element
    ion = f"{element}{charge:g}{sign}"
    if tabulated and ion not in known:
        raise ValueError(
            f"'{species}' has no tabulated form factor; the table has {', '.join(known)}. "
            "Choose one of these under 'ions' of the phase."
        )
    return ion


def tabulated_ion(ion: str) -> str:
    """The tabulated ion that stands for an ion: itself, else the nearest one, else the neutral atom.

    The nearest one has the same sign and a charge that differs by at most one half. Raises
    ValueError for an element that is not tabulated.
    """
    name = ion_symbol(ion, tabulated=False)
    known = ions(element_of(name))
    if name in known:
        return name
    charge = charge_of(name)
    near = [other for other in known if charge_of(other) * charge > 0
            and abs(charge_of(other) - charge) <= 0.5]
    return min(near, key=lambda other: abs(charge_of(other) - charge), default=element_of(name))


def charge_of(ion: str) -> float:
    """The charge of an ion symbol: 'Pb2+' -> 2, 'S' -> 0."""
    match = re.search(r"([\d.]+)([+-])$", ion)
    return 0.0 if match is None else float(match[1]) * (1 if match[2] == "+" else -1)


def scattering_factor(ion: str, q: FloatArray, wavelength: float) -> ScatteringFactor:
    """The scattering factor of an ion: f0 (Waasmaier-Kirfel 1995) plus Chantler's f' and f''.

    q (n_q,) in 1/Å, wavelength in Å. An ion that is not tabulated is replaced, see `tabulated_ion`.
    Raises ValueError where q is outside the range of the fit, or the element is not tabulated.
    Source: xraydb.
    """
    name = tabulated_ion(ion)
    if q.size and q.max() > WAASMAIER_KIRFEL_Q_MAX:
        raise ValueError(
            f"{name}: q reaches {q.max():.1f} 1/Å, but the Waasmaier-Kirfel fit ends at "
            f"{WAASMAIER_KIRFEL_Q_MAX:.1f} 1/Å. If q is in 1/nm, specify 'axis' of the pattern."
        )
    element = element_of(name)
    energy = photon_energy(wavelength)
    f1, f2 = f1_f2(element, energy)
    if not (np.isfinite(f1) and np.isfinite(f2)):
        raise ValueError(
            f"{name}: Chantler's tables have no f' and f'' at {energy:.0f} eV (wavelength "
            f"{wavelength:g} Å). Check that the wavelength is in Å."
        )
    offset, scale, exponents = f0_terms(name)
    s = q / (4 * np.pi)
    f0 = np.full(len(q), offset)
    for a, b in zip(scale, exponents, strict=True):
        f0 += a * np.exp(-b * s * s)
    return ScatteringFactor(name, f0 + f1, f2)


def element_of(ion: str) -> str:
    """The element of an ion symbol: 'Pb2+' -> 'Pb'."""
    return re.sub(r"[^A-Za-z].*$", "", ion)
