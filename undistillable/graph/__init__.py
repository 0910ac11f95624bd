"""A study's graph: runs, named after their content, planned and executed."""
