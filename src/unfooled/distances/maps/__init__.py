"""Distances between attribution maps."""
