"""The stages of the guarded early exit: fit, cut and certify it; measure it on the evaluation split."""
