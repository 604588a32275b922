"""The function that makes a page of a result."""

from __future__ import annotations

from functools import singledispatch

from ..audit.comparison import ModelComparison
from ..audit.findings import Verification
from ..errors import BadOption
from ..opening.info import CheckpointInfo
from ..opening.rescue_report import RescueReport
from ..outputs.report import Report
from .checkpoint import checkpoint_page
from .comparison import comparison_page
from .rescue import rescue_page
from .verification import verification_page


def html_report(found: CheckpointInfo | ModelComparison | Verification | RescueReport | Report) -> str:
    """Make a page in HTML of a result: one file that needs no network.

    Parameters
    ----------
    found : CheckpointInfo, ModelComparison, Verification, RescueReport or Report
        What `inspect`, `compare`, `verify` or `verify_source` returned, or `consolidate` with `rescue`.

    Returns
    -------
    str
        The text of the page. Names in it are escaped, and its policy keeps a browser from loading or running anything
        else.

    Raises
    ------
    BadOption
        If there is no page for such a result.

    Examples
    --------
    >>> import zeroconsolidate
    >>> info = zeroconsolidate.inspect("tests/fixtures/z3_bf16/checkpoint")
    >>> page = zeroconsolidate.html_report(info)
    >>> page.startswith("<!doctype html>"), "embed.weight" in page
    (True, True)
    """
    return _page(found)


@singledispatch
def _page(found: object) -> str:
    raise BadOption(
        f"there is no page for a {type(found).__name__}",
        expected="what inspect, compare, verify or consolidate returned",
    )


_page.register(CheckpointInfo, checkpoint_page)
_page.register(ModelComparison, comparison_page)
_page.register(Verification, verification_page)
_page.register(RescueReport, rescue_page)


@_page.register
def _(found: Report) -> str:
    if found.rescue is None:
        raise BadOption("nothing was rescued: there is no page for a conversion that is whole")
    return rescue_page(found.rescue, found.output)
