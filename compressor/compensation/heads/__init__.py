"""Small heads on the final [CLS] state, their trainers, and the fold into the stock classifier."""
