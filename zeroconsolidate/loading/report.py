"""What was put into a module, an engine or an optimizer."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What was loaded, and what had no counterpart.

    :func:`zeroconsolidate.load_into` returns it.

    Attributes
    ----------
    loaded : int
        Tensors that were written, a tied weight once.
    missing : tuple[str, ...]
        Names of the target that the source does not have; they keep the values they had.
    unexpected : tuple[str, ...]
        Names of the source that the target does not have.
    notes : tuple[str, ...]
        What was decided or changed on the way.
    complete

    Examples
    --------
    >>> import torch, zeroconsolidate
    >>> module = torch.nn.ModuleDict({"embed": torch.nn.Embedding(13, 7)})
    >>> report = zeroconsolidate.load_into(module, "tests/fixtures/z3_bf16/checkpoint", strict=False)
    >>> report.loaded, report.missing, report.complete
    (1, (), False)
    """

    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every name of each side had its counterpart."""
        return not self.missing and not self.unexpected

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain values, ready for JSON.

        Returns
        -------
        dict
            The fields by name.
        """
        return asdict(self) | {"complete": self.complete}
