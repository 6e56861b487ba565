"""Work that survives a kill: records, whole files, hashes, chunks and units."""
