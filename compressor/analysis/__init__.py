"""What the full model's parts do: the FFNs, its confident errors, the role of each layer."""
