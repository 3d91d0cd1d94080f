"""[CLS] states of every layer in one pass, and how alike any two depths are."""
