"""Results -> one HTML page each, which needs no network and no other file. All but `save.py` is pure."""
