"""The vocabulary: threats, losses, the ascent kernel, and what it means to be a model."""
