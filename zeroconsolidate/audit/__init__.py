"""IS IT RIGHT: reads outputs and checkpoints back and says what is wrong with them. Writes nothing."""
