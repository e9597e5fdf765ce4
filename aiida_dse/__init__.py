"""Debye scattering analysis of nanocrystals with AiiDA provenance."""

__version__ = "0.2.0"
