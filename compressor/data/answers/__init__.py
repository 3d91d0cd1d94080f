"""What a model answers and what the data holds of it: kinds of tasks, their labels, what a configuration says."""
