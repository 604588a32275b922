"""Names: stored names and expected names -> output names, and a check that a loader finds all."""
