"""The documents that lorascope reads and writes, as validated models."""
