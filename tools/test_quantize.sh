#!/bin/sh
# What `--quantize` writes is what llm-compressor and transformers make of the same model, byte for byte, and loads.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
. tools/described_environment.sh
described_environment quantize
python -m pytest -p no:cacheprovider tests/models/test_quantized.py "$@"
