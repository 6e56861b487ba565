"""Studies: one file for each published experiment that the library reproduces; each returns a `StudySummary`."""
