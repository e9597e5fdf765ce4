"""Particles: size laws, shapes and their pair counts."""
