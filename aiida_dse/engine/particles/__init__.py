"""Particles: size distributions, shapes, pair counts and size statistics."""
