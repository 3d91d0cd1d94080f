"""One recipe in one run directory: what stages share, what is refused before work, resuming."""
