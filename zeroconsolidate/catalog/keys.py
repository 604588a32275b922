"""The keys of a raw dict -> an error for a key that DeepSpeed is not known to write.

In an optimizer file every key is DeepSpeed's: an unknown one may change what the others mean, and is refused.
A model file also has the client's own keys (`save_checkpoint(client_state=…)`) at its top level, and nothing tells
them apart from DeepSpeed's. So there an unknown key is refused only where its name claims to be a layout's:
DeepSpeed's own all begin with one of a few words (:data:`_CLAIMS`), or are listed as unreadable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL_KEYS = frozenset(
    "module buffer_names optimizer param_shapes frozen_param_shapes shared_params frozen_param_fragments lr_scheduler "
    "data_sampler random_ltd sparse_tensor_module_names csr_tensor_module_names skipped_steps global_steps "
    "global_samples dp_world_size mp_world_size checkpoint_parallel_dimensions ds_config ds_version num_experts "
    "ds_autoep_layers universal_checkpoint_info".split()
)
"""Top level of `*_model_states.pt` (`DeepSpeedEngine._save_checkpoint`)."""

OPTIMIZER_FILE_KEYS = frozenset(
    "optimizer_state_dict ds_config ds_version param_shapes universal_checkpoint_info ds_zero_partition_groups "
    "ds_autoep_layers".split()
)
"""Top level of `*_optim_states.pt` (`DeepSpeedEngine._save_zero_checkpoint`)."""

STATE_KEYS = frozenset(
    "loss_scaler dynamic_loss_scale overflow clip_grad base_optimizer_state single_partition_of_fp32_groups zero_stage "
    "group_paddings param_alignment_paddings partition_count ds_version param_slice_mappings "
    "universal_checkpoint_info ds_config fp32_flat_groups num_comm_intervals_per_group "
    "local_sub_partitions_of_fp32_groups optimizer_state_dict ds_zero_partition_groups "
    "ds_autoep_layers".split()
)
"""What the ZeRO optimizers and BF16_Optimizer save (`state_dict`, `_rigid_state_dict`)."""

WHOLE_STATE_KEYS = frozenset(
    "dynamic_loss_scale cur_scale cur_iter last_overflow_iter scale_factor scale_window optimizer_state_dict "
    "fp32_groups fp32_groups_flat clip_grad".split()
)
"""What the wrappers of stage 0 save (`FP16_UnfusedOptimizer.state_dict`, `FP16_Optimizer.state_dict`)."""

_UNREADABLE = {
    "loco": "partitions with error feedback (LoCo)",
    "autotp_partitions": "tensor parallelism in a form that is not known",
}
_CLAIMS = (
    "ds_",
    "zero_",
    "autotp_",
    "autoep_",
    "universal_",
    "partition_",
    "param_",
    "fp32_",
    "frozen_param_",
    "shared_",
)


def check_model_keys(content: Mapping[str, Any]) -> None:
    """Refuse a model file with an unknown key that is spelled like one of a layout."""
    for key in content:
        if key not in MODEL_KEYS and (key in _UNREADABLE or str(key).startswith(_CLAIMS)):
            raise _unknown(str(key))


def check_keys(content: Mapping[str, Any], known: frozenset[str]) -> None:
    """Refuse a part of an optimizer file with a key that is not `known`."""
    for key in content:
        if key not in known:
            raise _unknown(str(key))


def _unknown(key: str) -> UnsupportedLayout:
    what = _UNREADABLE.get(key, "it may change the meaning of the others")
    return UnsupportedLayout(f"the layout key {key[:80]!r} is not known: {what}")
