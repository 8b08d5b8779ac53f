"""Opening base, adapter and full checkpoints, and proving that they belong together."""
