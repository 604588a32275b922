"""Files: a directory and a tag -> files; a `.pt` container -> located storages. Pickled code is never run."""
