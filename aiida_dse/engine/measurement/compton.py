"""Compton scattering of free atoms."""

from __future__ import annotations

import numpy as np

from aiida_dse.engine.units import FloatArray, photon_energy

#: The rest energy of the electron in eV.
ELECTRON_REST_ENERGY = 510998.95


def compton_scattering(element: str, q: FloatArray, wavelength: float, *, integrating: bool = False) -> FloatArray:
    """The Compton scattering (n_q,) of one atom in electron units, without polarisation; q in 1/Å, wavelength in Å.

    S(q) (E'/E)^2 with the incoherent scattering function S of Hubbell et al. (J. Phys. Chem. Ref. Data 4 (1975)
    471), as xraylib tabulates it. The exponent is 3 for `integrating` detectors, which measure energy, not counts.
    """
    import xraylib  # few models need it

    number = xraylib.SymbolToAtomicNumber(element)
    s = np.asarray(q, dtype=float) / (4 * np.pi)
    scattered = np.array([xraylib.SF_Compt(number, float(one)) for one in s])
    # 1 - cos 2theta = 2 sin^2 theta
    ratio = 1 / (1 + photon_energy(wavelength) / ELECTRON_REST_ENERGY * 2 * (s * wavelength) ** 2)
    return np.asarray(scattered * ratio ** (3 if integrating else 2))
