"""Universal checkpoints: what DeepSpeed's loader takes at any world size and stage."""
