"""Readers of data files, each ending in tensors in the unit box."""
