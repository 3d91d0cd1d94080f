"""Guarded early exit: a front that answers when it is sure, and a bound on what that changes."""
