"""Runs of other tools as items and answers, one module a tool. Files are read as they are; no model is run."""
