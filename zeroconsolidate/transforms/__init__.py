"""Transformations: what happens to weights between the checkpoint and the output. One file each."""

from . import registered  # noqa: F401  (whoever has one of our recipes, from a pickle too, can have it read)
from .transform import Model, Transform

__all__ = ["Model", "Transform"]
