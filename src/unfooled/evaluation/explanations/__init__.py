"""Judges of explanations: under attack, faithfulness, movement, locality, attention."""
