"""Small reference networks."""
