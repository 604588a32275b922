"""How the real checkpoints of `tests/fixtures/layouts` come to be: cases, training jobs, live values, assembly."""
