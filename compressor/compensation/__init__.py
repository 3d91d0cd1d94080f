"""What makes up for removed layers."""
