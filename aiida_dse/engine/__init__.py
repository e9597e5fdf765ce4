"""The Debye scattering engine: crystals, particles, distances, patterns, refinement.

Nothing below this package imports AiiDA; it runs wherever numpy, scipy, numba, finufft,
xraydb and gemmi do.
"""

import os as _os

# The threads of the non-uniform FFT must sleep while they wait: where cores are shared they would
# otherwise spin against each other (seen: a refinement ten times slower). Read when finufft loads.
_os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

#: The version of the numbers: raised whenever the engine computes other ones for the same input.
NUMERICS_VERSION = 1
