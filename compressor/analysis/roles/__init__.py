"""Hub, damper, passthrough or specialist: what the weights of each layer say of it."""
