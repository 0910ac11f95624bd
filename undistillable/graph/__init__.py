"""A study's graph: runs, named after their content, planned and executed.

To be read as `runs`, `plan`, `programs`, `store`, `execute`.
"""
