"""Files in, anchored text out. Imports neither torch nor a model.

`read` opens a file, `anchors` holds the values it returns, `budget` says what fits a context, `kept_scans` keeps what
took long to recognise; nothing else is for use from outside. Behind them: `pdf` with `pdf_lines`, `layout` and `bidi`;
`pdf_scans` with `ocr`; `docx` with `docx_numbering`; `html`; `plain` for text, code and Markdown; and what they share,
`encoding`, `sections` and `scripts`.
"""
