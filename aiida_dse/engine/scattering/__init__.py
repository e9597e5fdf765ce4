"""Scattering: form factors, pairs of sites, distance histograms, the Debye sum."""
