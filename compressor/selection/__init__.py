"""Scores of layers and the search for the layers to skip."""
