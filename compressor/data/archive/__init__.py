"""Large amounts of unlabelled text, read as a stream: what is in memory does not grow with them."""
