"""What a recipe says, and how it is read."""
