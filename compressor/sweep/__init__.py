"""Many runs from one file: the points of a sweep, what runs them, and what came of them."""
