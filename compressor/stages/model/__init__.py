"""The stage that makes the compressed model, and its larger steps."""
