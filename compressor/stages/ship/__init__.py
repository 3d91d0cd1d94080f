"""The stages behind the one answer: what was built, which of it to ship, and how much faster it is."""
