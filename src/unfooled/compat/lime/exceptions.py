"""Errors of the original's own kind."""

__all__ = ["LimeError"]


class LimeError(Exception):
    """An explanation of an unknown kind."""
