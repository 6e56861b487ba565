"""Checks before, during and after an attack, and the verdict that they lead to."""
