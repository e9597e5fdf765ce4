"""Fits: least squares, other minimisers, multi-start, simultaneous refinement, uncertainties."""
