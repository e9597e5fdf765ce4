"""The Debye scattering engine: crystals, particles, scattering, forward model, fits and maps.

Nothing below this package imports AiiDA; it runs wherever numpy, scipy, numba, finufft,
xraydb and gemmi do. Nothing here reads the environment: see `resources.Resources`.
"""

#: Version of the numbers that the engine computes. Results of one version can replace
#: each other (AiiDA's cache, continued maps); those of two versions cannot.
#:
#: Raise it by one in the commit that changes any number a result holds, for the same document and
#: files, by more than rounding: patterns, counts, statistics, s.u., which points an adaptive map
#: computes, when a refinement stops. Leave it where only speed, text or new keys change.
#: `tests/engine/test_golden_patterns.py` fails where patterns move without it; after raising it
#: run `python tests/engine/test_golden_patterns.py` to store the new patterns.
NUMERICS_VERSION: int = 1
