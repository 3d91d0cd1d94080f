"""Commands that hold what is finished against each other: bench, compare."""
