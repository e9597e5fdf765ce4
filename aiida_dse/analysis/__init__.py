"""Analyses of refinement results: series, fitted laws, comparisons and differential patterns."""
