"""A checkpoint as a mapping: names to tensors that are read when they are asked for."""
