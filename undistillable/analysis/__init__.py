"""What the runs of a study mean: summary, tables and figures."""
