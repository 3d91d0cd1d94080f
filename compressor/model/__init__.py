"""Model families, loading, one-pass states and layer surgery."""
