"""Work that survives a kill: whole files, settings that are compared, chunks and units, claims and records."""
