"""Architecture search over adapter configurations: the space, the supernet, and what is found with them."""
