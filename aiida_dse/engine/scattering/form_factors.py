"""Atomic scattering factors f0(q) + f' + i f'' of ions at one wavelength."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xraydb

from aiida_dse.engine.units import FloatArray, photon_energy

#: Where the Waasmaier-Kirfel fit ends: sin(theta)/lambda = 6 1/Å.
WAASMAIER_KIRFEL_Q_MAX = 4 * np.pi * 6.0


@dataclass(frozen=True)
class ScatteringFactor:
    """f(q) = f0(q) + f' + i f'' of one ion; electron units."""

    ion: str
    real: FloatArray  # (n_q,) f0 + f'
    imaginary: float  # f''


def ion_symbol(species: str, *, any_case: bool = False) -> str:
    """The name under which an ion is tabulated: 'Cs+' and 'Cs1+' -> 'Cs1+', 'Ti' -> 'Ti'.

    Element symbols are case-sensitive, since 'CA' is calcium in one file and the label of a carbon
    atom in another; a single letter or a symbol with a charge has one meaning only. `any_case`
    accepts 'PB' and 'pb': for sources that hold nothing but element symbols (_atom_site_type_symbol
    of a CIF). Raises ValueError for a species that the Waasmaier-Kirfel table does not hold, naming
    the states it does hold for that element.
    """
    match = re.fullmatch(r"\s*([A-Za-z]{1,2})\s*(?:(\d*)([+-])|([+-])(\d+))?\s*", species)
    written = match.group(1) if match else species
    element = written.capitalize()
    known = _states_of(element) if match else ()
    if match is None or not known:
        raise ValueError(
            f"'{species}' is no element or ion with a tabulated form factor. Write it like "
            "'Pb', 'Pb2+' or 'Br1-'."
        )
    sign = match.group(3) or match.group(4)
    if len(written) == 2 and written != element and sign is None and not any_case:
        first = written[0].upper()
        other = f" or {first} (a label that begins with its element)" if _states_of(first) else ""
        raise ValueError(
            f"'{species}' is ambiguous: {element}{other}? Element symbols are a capital and a small "
            f"letter. Write '{element}' in the file, or specify what it is under the phase's 'ions' "
            f"({species.strip()}: {element})."
        )
    if sign is None or (match.group(2) == "0" or match.group(5) == "0"):
        return element
    charge = match.group(2) or match.group(5) or "1"
    ion = f"{element}{charge}{sign}"
    if ion not in known:
        raise ValueError(
            f"'{species}' has no tabulated form factor; {element} has {', '.join(known)}. "
            "Choose one of them under the phase's 'ions'."
        )
    return ion


def scattering_factor(ion: str, q: FloatArray, wavelength: float) -> ScatteringFactor:
    """f0 (Waasmaier-Kirfel 1995) plus Chantler's f' and f'' of an ion.

    q (n_q,) 1/Å; wavelength Å. Raises ValueError where q leaves the range of the fit or the
    species is not tabulated. Source: xraydb.
    """
    name = ion_symbol(ion)
    if q.size and q.max() > WAASMAIER_KIRFEL_Q_MAX:
        raise ValueError(
            f"{name}: q reaches {q.max():.1f} 1/Å, but the Waasmaier-Kirfel fit ends at "
            f"{WAASMAIER_KIRFEL_Q_MAX:.1f} 1/Å. Is q in 1/nm? If so, set 'axis' of the pattern."
        )
    element = element_of(name)
    energy = photon_energy(wavelength)
    f1 = float(xraydb.f1_chantler(element, energy))
    f2 = float(xraydb.f2_chantler(element, energy))
    if not (np.isfinite(f1) and np.isfinite(f2)):
        raise ValueError(
            f"{name}: Chantler's tables have no f', f'' at {energy:.0f} eV (wavelength "
            f"{wavelength:g} Å). Check the wavelength: it is in Å."
        )
    return ScatteringFactor(name, np.asarray(xraydb.f0(name, q / (4 * np.pi))) + f1, f2)


def element_of(ion: str) -> str:
    """The element of an ion symbol: 'Pb2+' -> 'Pb'."""
    return re.sub(r"[^A-Za-z].*$", "", ion)


@lru_cache
def _states_of(element: str) -> tuple[str, ...]:
    try:
        return tuple(xraydb.f0_ions(element))
    except ValueError:
        return ()
