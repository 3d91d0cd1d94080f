"""Commands that take a model or a run directory: export, explain, report."""
