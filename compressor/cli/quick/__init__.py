"""The command that takes a model and texts, and no recipe: quick."""
