"""Writing: bytes -> files that are safe on disk before they get their names: staging, journal, lock, sync."""
