"""Outputs: a checkpoint and options -> a model directory or an adapter, checked, and a report."""
