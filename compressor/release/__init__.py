"""A finished run as something to hand on: a manifest, a check against it, one tar file, an upload."""
