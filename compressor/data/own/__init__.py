"""What files of the user's own hold: their columns, their labels, and the parts of a run that they make."""
