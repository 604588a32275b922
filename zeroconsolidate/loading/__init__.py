"""Tensors of a checkpoint -> a module, an engine or an optimizer in memory, one at a time."""
