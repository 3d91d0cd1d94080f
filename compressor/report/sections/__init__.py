"""The analyses as sections of a page: one file an analysis."""
