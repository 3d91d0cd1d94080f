"""Stages that explain the model: one file an analysis."""
