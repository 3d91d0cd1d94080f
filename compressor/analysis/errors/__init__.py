"""Confident errors: how sure a model is where it is wrong, and where the answer still was."""
