"""Facts: raw dicts of all ranks -> frozen, typed facts that agree with each other. No arithmetic, no IO."""
