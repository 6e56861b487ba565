"""Data that need no file: digits, rendered shapes, digits on a canvas."""
