"""Pictures, plots and colours that results and the report draw with."""
