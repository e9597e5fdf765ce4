"""CalcJobs and calcfunctions of aiida-dse."""
