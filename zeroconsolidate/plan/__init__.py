"""The plan: facts -> for each output tensor, which bytes of which files. Pure arithmetic."""
