"""Judges of explanations: under attack, by faithfulness, movement, locality and attention."""
