"""FILES: a directory and a tag become files, a `.pt` container becomes located storages. Never runs pickled code."""
