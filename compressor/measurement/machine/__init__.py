"""The machine: its devices, providers and libraries, what works and why the rest does not."""
