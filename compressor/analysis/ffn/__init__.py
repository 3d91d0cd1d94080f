"""The dual role of feed-forward blocks: what is common to all texts, what classifies, what each is worth."""
