"""The forward model of one pattern: parameters, phases, background and agreement."""
