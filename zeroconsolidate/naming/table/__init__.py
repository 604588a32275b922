"""The built-in table: what transformers says of the configs of common models, as data, so that it need not be started.

`entries/` has a file for each `model_type`, made and proven by `tools/names_table`. It is used to confirm: if the names
and shapes of a checkpoint are exactly those of the table, transformers is not asked. Whatever is unknown to the table
(a class, a key of the config, a value outside of what was proven) means that it says nothing.
"""
