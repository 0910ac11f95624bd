"""How fast steps are, and what else is measured of the machine."""
