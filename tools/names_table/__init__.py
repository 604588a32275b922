"""Makes and proves the built-in table of names: `python -m names_table` says how."""
