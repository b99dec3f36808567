"""Files: TIFF volumes, listings, atomic writes, locks, and the record of a run."""
