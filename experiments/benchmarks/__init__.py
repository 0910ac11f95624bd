"""How fast steps are, and what they cost beside the passes in them."""
