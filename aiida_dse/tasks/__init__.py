"""Tasks of the engine: from a document to a result."""
