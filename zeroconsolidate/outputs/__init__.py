"""WHAT IS MADE: a model directory or an adapter: its tensors, the files beside them, checks, report."""
