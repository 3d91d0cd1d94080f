"""Mixes of parts within a budget: what may go, what it saves, and which mix changes the answer least."""
