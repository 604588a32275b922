"""IS IT RIGHT: reads outputs and checkpoints back and reports what is wrong with them. Writes nothing."""
