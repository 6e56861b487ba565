"""Attacks on explanations and on attention."""
