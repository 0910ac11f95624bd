"""Training and judging networks: the loop, devices, hosts, checkpoints.

Nothing is imported here, so that whoever needs one module pays for no other.
"""
