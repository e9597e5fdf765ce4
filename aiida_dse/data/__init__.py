"""AiiDA data nodes and their conversion to the files of a job."""
