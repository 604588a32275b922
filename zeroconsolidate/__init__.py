"""Turn a DeepSpeed ZeRO checkpoint into a model directory that loads."""
