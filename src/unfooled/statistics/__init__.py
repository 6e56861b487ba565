"""Intervals, bootstraps and associations."""
