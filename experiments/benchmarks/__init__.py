"""What steps cost beside the passes that they are made of."""
