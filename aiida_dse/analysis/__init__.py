"""Physics read from refinements: series, laws, comparisons, differential patterns."""
