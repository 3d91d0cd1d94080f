"""The from-scratch experiment: which layers of an encoder need a feed-forward block."""
