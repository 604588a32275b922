#!/bin/sh
# FlagEmbedding's and sentence-transformers' own classes load what we write, in an environment that has both.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
. tools/described_environment.sh
described_environment flagembedding
python -m pytest -p no:cacheprovider tests/models/test_flagembedding.py "$@"
