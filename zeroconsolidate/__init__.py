"""Turn a DeepSpeed ZeRO checkpoint into a model directory that loads.

>>> import zeroconsolidate
>>> zeroconsolidate.inspect("tests/fixtures/z3_bf16/checkpoint").counts["trainable"] > 0
True
"""

from ._version import __version__
from .api import consolidate, estimate, inspect, open_checkpoint
from .audit.findings import Verification
from .errors import ZeroConsolidateError
from .lazy import Checkpoint, TensorView
from .plan.build import Cost
from .plan.info import CheckpointInfo, TensorInfo
from .plan.losses import Loss
from .verifying import verify, verify_source
from .write.report import Report
from .write.rescue_report import RescueReport

__all__ = [
    "Checkpoint",
    "CheckpointInfo",
    "Cost",
    "Loss",
    "Report",
    "RescueReport",
    "TensorInfo",
    "TensorView",
    "Verification",
    "ZeroConsolidateError",
    "__version__",
    "consolidate",
    "estimate",
    "inspect",
    "open_checkpoint",
    "verify",
    "verify_source",
]
