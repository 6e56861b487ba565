"""The vocabulary of the library: threats, losses, goals, the ascent kernel, and what a model is."""
