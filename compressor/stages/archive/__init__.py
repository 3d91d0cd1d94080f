"""One pass over any amount of unlabelled text, by one reader or by many."""
