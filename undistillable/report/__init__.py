"""What a study found: one tidy table, the words, the figures, the pages.

`summary` makes the table from the entries of results.json; all else reads it.
`write.write` makes report.md, report.html and the figures.
"""
