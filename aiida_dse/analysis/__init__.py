"""Analyses of refinement results: series, laws, comparisons, differential patterns."""
