"""Tasks as four disjoint parts of labelled text, and batches of them."""
