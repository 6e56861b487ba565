"""Pictures and plots that results and the report draw with."""
