"""The judges: verification of points, checks and verdict, explanations, and the audit that joins them."""
