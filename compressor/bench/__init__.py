"""Timing what is finished: models, files and runs against each other, and runs side by side."""
