"""Engines: who answers the items of a task for a checkpoint, and the cache of answers."""
