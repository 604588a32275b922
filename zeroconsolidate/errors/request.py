"""What is asked for cannot be had: an option, a tensor, names that fit, or what must be installed for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import ZeroConsolidateError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import Parts


class WrongNames(ZeroConsolidateError, ValueError):
    """A loader would not find its parameters under these names, and would use random weights.

    Parameters
    ----------
    message : str
        What is wrong.
    missing : tuple of str
        Names that are expected and not there, where tensors were to be loaded into a module.
    unexpected : tuple of str
        Names that are there and not expected, likewise.
    **parts
        See `ZeroConsolidateError`.

    Examples
    --------
    >>> import torch, zeroconsolidate
    >>> try:
    ...     zeroconsolidate.load_into(torch.nn.Linear(2, 2), "tests/fixtures/z3_bf16/checkpoint")
    ... except zeroconsolidate.WrongNames as error:
    ...     print(error.missing)
    ('weight', 'bias')
    """

    def __init__(
        self, message: str, *, missing: tuple[str, ...] = (), unexpected: tuple[str, ...] = (), **parts: Unpack[Parts]
    ) -> None:
        super().__init__(message, **parts)
        self.missing = missing
        self.unexpected = unexpected


class BadOption(ZeroConsolidateError, ValueError):
    """An option is unknown, or makes no sense for this checkpoint or output.

    Examples
    --------
    >>> import zeroconsolidate
    >>> try:
    ...     zeroconsolidate.inspect("tests/fixtures/z3_bf16/checkpoint", tga="global_step2")
    ... except zeroconsolidate.BadOption as error:
    ...     print(error)
    inspect has no option 'tga'; did you mean 'tag'?
    """


class MissingPackage(ZeroConsolidateError, ImportError):
    """A package that only this needs is not installed, such as torch.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.MissingPackage, ImportError)
    True
    """


class UnsupportedSystem(ZeroConsolidateError, ImportError):
    """The operating system lacks what this package needs to write safely: Windows.

    Examples
    --------
    >>> import zeroconsolidate
    >>> issubclass(zeroconsolidate.UnsupportedSystem, ImportError)
    True
    """


class NoSuchTensor(ZeroConsolidateError, KeyError):
    """The checkpoint has no tensor of this name.

    Examples
    --------
    >>> import zeroconsolidate
    >>> try:
    ...     zeroconsolidate.open_checkpoint("tests/fixtures/z3_bf16/checkpoint")["embed.wieght"]
    ... except KeyError as error:
    ...     print(error.message)
    the checkpoint has no tensor 'embed.wieght'
    """


class BadIndex(ZeroConsolidateError, IndexError):
    """What stands between the brackets, behind a tensor that has not been read, is not in the tensor.

    Examples
    --------
    >>> import zeroconsolidate
    >>> try:
    ...     zeroconsolidate.open_checkpoint("tests/fixtures/z3_bf16/checkpoint")["embed.weight"][13]
    ... except IndexError as error:
    ...     print(error)
    the index 13 is out of range for dimension 0, which has 13
    """
