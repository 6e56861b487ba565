"""Measures of attribution maps and distances between them."""
