"""Data: files of every accepted form into items, suites, the built-in probe, and training logs."""
