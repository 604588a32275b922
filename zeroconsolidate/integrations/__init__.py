"""OTHER PEOPLE'S SYSTEMS: the callback of a Trainer, a live engine, drop-ins. Imported only when asked for."""
