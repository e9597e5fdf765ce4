"""Debye scattering analysis of nanocrystals with AiiDA provenance."""

__version__ = "0.1.0"
