"""The tasks of the engine, from a document to result files; the executable of CalcJobs."""
