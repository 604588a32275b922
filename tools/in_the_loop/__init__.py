"""Real trainings of a few seconds, with a callback of ours in them."""
