"""WHOSE NAMES: stored names in, the names that a loader expects out; where they come from, the decision, its check."""
