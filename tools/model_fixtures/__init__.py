"""Trains the models behind tests/fixtures/models: what people really fine-tune, at toy size, with the real trainers."""
