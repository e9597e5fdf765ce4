"""Tasks of the engine, each of which computes a result from a document."""
