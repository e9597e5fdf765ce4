"""Numbers with standard uncertainties; they live where verdicts are worded, and are used here."""

from aiida_dse.engine.formatting import with_su

__all__ = ["with_su"]
