"""The wheel and the sdist: built twice, read, installed into an empty environment, run."""
