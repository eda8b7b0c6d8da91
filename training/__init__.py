"""The slow loop: datasets, models and the servers that serve them."""
