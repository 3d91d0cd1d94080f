"""Closed-form refits of what is left of a layer, from streamed sums over calibration text."""
