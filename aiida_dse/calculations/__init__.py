"""CalcJobs and calcfunctions of aiida-dse."""

from aiida_dse.data.patience import wait_for_the_database

wait_for_the_database()  # every process of the daemon imports this package
