"""Texts as words with a label each: the files that hold them, the rows that come out, and the tokens that they become."""
