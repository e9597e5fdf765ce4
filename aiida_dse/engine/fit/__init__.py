"""Fits: least squares, other minimisers, many starts, simultaneous refinement, uncertainties."""
