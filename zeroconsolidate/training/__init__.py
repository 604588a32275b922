"""Beside a training that runs: each save becomes a model, in a process of its own, and training does not notice."""
