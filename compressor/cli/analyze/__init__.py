"""`compressor analyze`: errors, ffn, roles, placement."""
