"""What several runs share: results of stages, in a folder or behind a URL."""
