"""Files in, anchored text out. Imports neither torch nor a model.

`read` opens a file, `anchors` holds the values it returns, `budget` says what fits a context. The readers of the format
families are `pdf` (with `layout`), `docx`, `html` and `plain`; nothing outside this package imports them.
"""
