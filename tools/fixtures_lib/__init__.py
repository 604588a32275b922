"""How the fixtures are made: tiny models trained for real with DeepSpeed on CPU, and the values their engines held.

cases -> what is trained            zoo      -> the models
ranks -> one process a rank         truth    -> the values a reader must reproduce, each confirmed twice
train -> engine runs                trainer  -> Hugging Face Trainer runs
provenance -> where a fixture comes from, and the digests of its files
"""
