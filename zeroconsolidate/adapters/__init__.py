"""PEFT adapters: names and `adapter_config.json` -> an adapter's files, or recipes of a merged model."""

from . import registered  # noqa: F401  (whoever has one of our recipes, from a pickle too, can have it read)
