"""Particles: size laws, shapes, pair counts and size statistics."""
