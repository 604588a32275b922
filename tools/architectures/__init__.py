"""One tiny checkpoint of each of many architectures, saved by DeepSpeed: `cases.py` lists them."""
