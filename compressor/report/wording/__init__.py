"""The sentences of the report and the terminal. None claims more than the interval behind it allows."""
