"""Names of the files in a model directory or an adapter."""

import re

CONFIG = "config.json"
"""transformers' configuration of a model."""
WEIGHTS = "model.safetensors"
"""The weights of a model in one file."""
INDEX_NAME = "model.safetensors.index.json"
"""Which shard holds which tensor."""
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
"""The same for a diffusers model (`SAFETENSORS_WEIGHTS_NAME` in diffusers `utils/constants.py`)."""
PICKLE_NAME = "pytorch_model.bin"
PICKLE_INDEX_NAME = f"{PICKLE_NAME}.index.json"
"""The same for weights that are pickled."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
"""PEFT's weights and configuration of an adapter (peft `utils/constants.py`)."""
NON_LORA_WEIGHTS = "non_lora_trainables.safetensors"
"""What was trained beside an adapter, as in LLaVA's `non_lora_trainables.bin`."""
BESIDE_FOLDER = "trained_beside"
"""The folder in which a merged model has that file."""
OPTIMIZER_FOLDER = "optimizer"
OPTIMIZER_WEIGHTS = f"{OPTIMIZER_FOLDER}/optimizer.safetensors"
OPTIMIZER_SETTINGS = f"{OPTIMIZER_FOLDER}/optimizer.json"
"""What an optimizer keeps of the weights beside this folder."""
MANIFEST_NAME = "zeroconsolidate.json"
"""Our own record of how an output was made."""
RESCUE_REPORT_NAME = "rescue-report.json"
"""Where the values in a rescued output came from."""

MAX_HEADER_BYTES = 100_000_000
"""Readers of safetensors refuse a longer header (`MAX_HEADER_SIZE` in safetensors `src/tensor.rs`), and so do we."""

_WEIGHTS = re.compile(
    r"(?:model|pytorch_model|adapter_model|diffusion_pytorch_model)(?:-[0-9]{5}-of-[0-9]{5})?\.(?:safetensors|bin)"
    r"|non_lora_trainables\.safetensors"
)


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights that a loader would take.

    >>> is_weights("model-00001-of-00003.safetensors"), is_weights("optimizer.bin")
    (True, False)
    """
    return _WEIGHTS.fullmatch(name) is not None
