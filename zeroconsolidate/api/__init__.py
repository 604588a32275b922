"""Python's functions: they take paths and options, call one stage after the other, give results."""
