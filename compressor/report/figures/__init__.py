"""Every figure of the report and of the commands."""
