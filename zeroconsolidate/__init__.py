"""Turn a DeepSpeed ZeRO checkpoint into a model directory that loads.

>>> import zeroconsolidate
>>> zeroconsolidate.inspect("tests/fixtures/z3_bf16/checkpoint").counts["trainable"] > 0
True
"""

from ._version import __version__
from .api import consolidate, estimate, inspect, open_checkpoint
from .audit.findings import Verification
from .audit.verify import verify, verify_source
from .errors import ZeroConsolidateError
from .opening.info import CheckpointInfo, TensorInfo
from .opening.losses import Loss
from .opening.rescue_report import RescueReport
from .outputs.mapping import Checkpoint, TensorView
from .outputs.report import Report
from .plan.build import Cost

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
