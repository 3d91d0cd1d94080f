"""Commands that hand a finished run on: verify, bundle, push."""
