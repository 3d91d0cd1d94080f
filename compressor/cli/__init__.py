"""The command line: a folder for each group of commands, its tables beside it."""
