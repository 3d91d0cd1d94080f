"""The report: one self-contained page, a Markdown summary and their figures, built from result.json alone."""
