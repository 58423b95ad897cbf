"""One decoder for all families, and the reading of their checkpoints."""
