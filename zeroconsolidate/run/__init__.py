"""DO IT: a plan and a block of memory become bytes in files. Knows nothing of ZeRO."""
