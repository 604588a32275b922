"""PEFT: adapters are found, written as PEFT would, or merged into the weights they belong to."""

from . import registered  # noqa: F401  (whoever has one of our recipes, from a pickle too, can have it read)
