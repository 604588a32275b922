"""KEEP IT SAFE: staging, journal, lock, fsync and renames, which any output needs."""
