"""The Debye scattering engine: crystals, particles, scattering, forward model, fits and maps.

No module of this package imports AiiDA; the engine runs wherever numpy, scipy, numba, finufft,
xraydb and gemmi do. No module reads the environment (numba reads NUMBA_CACHE_DIR): see
`resources.Resources`.
"""

#: Version of the numbers that the engine computes. Results of the same version can replace
#: each other (AiiDA's cache, continued maps); results of different versions cannot.
#:
#: Raise it by one in the commit that changes any number in a result, for the same document and
#: files, by more than rounding: patterns, counts, statistics, s.u., which points an adaptive map
#: computes, when a refinement stops. Do not raise it where only speed, text or new keys change.
#: `tests/engine/test_golden_patterns.py` fails if patterns change without a new version; after
#: raising it, run `python tests/engine/test_golden_patterns.py` to store the new patterns.
NUMERICS_VERSION: int = 3
