"""The order of the stages, what a run would do, and result.json."""
