"""CalcJobs and calcfunctions of the engine."""
