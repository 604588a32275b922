"""Names of functions and classes that only an attack would put into a checkpoint.

Nothing depends on this list: what is not on it is not run either. It is here so that the error can say so.
"""

from __future__ import annotations

_HOSTILE_MODULES = frozenset(
    "os posix nt subprocess sys importlib runpy pty socket shutil ctypes _ctypes signal multiprocessing threading "
    "asyncio pickle _pickle marshal code codeop inspect pdb bdb timeit webbrowser http urllib ftplib smtplib "
    "pkgutil zipimport gc atexit builtin_function_or_method pip setuptools distutils cffi venv".split()
)
"""What people really keep in `client_state` is not in the list: paths, namespaces, partial functions."""
_HOSTILE_BUILTINS = frozenset(
    "eval exec compile open input breakpoint getattr setattr delattr __import__ globals locals vars execfile "
    "exit quit memoryview map filter apply reduce file".split()
)
_HOSTILE_NAMES = frozenset(
    {
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch.serialization", "load"),
        ("torch.hub", "load"),
        ("numpy", "load"),
        ("numpy.testing._private.utils", "runstring"),
    }
)


def is_hostile(module: str, name: str) -> bool:
    """Whether importing `name` from `module` shows that the pickle means harm.

    >>> is_hostile("posix", "system"), is_hostile("builtins", "eval"), is_hostile("argparse", "Namespace")
    (True, True, False)
    """
    root = module.partition(".")[0]
    if root in ("builtins", "__builtin__"):
        return name.partition(".")[0] in _HOSTILE_BUILTINS
    return root in _HOSTILE_MODULES or (module, name) in _HOSTILE_NAMES
