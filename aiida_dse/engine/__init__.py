"""The Debye scattering engine: crystals, particles, distances, patterns, refinement.

Nothing below this package imports AiiDA; it runs wherever numpy, scipy, numba, finufft,
xraydb and gemmi do.
"""
