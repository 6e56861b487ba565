"""Studies that reproduce published experiments."""
