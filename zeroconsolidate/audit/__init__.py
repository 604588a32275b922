"""Verification: an output, a checkpoint or both -> what is wrong with them. Writes nothing."""
