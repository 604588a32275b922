"""WHAT IT SAYS: raw dicts become frozen, typed, cross-checked facts. No arithmetic, no IO."""
