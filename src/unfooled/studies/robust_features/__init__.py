"""Robust and non-robust features: four sets, and what networks learn from each."""
