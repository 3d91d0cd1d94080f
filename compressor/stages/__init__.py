"""The stages of a run: one file each, with its inputs, its work and its part of result.json."""
