"""Architecture search over adapter configurations: the space, the study, and what is found with them."""
