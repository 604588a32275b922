#!/bin/sh
# Checkpoints and outputs in object stores, against a real S3 server on loopback that also fails, and against a stand-in
# for the Hugging Face hub; in an environment that has their clients.
set -eu
cd "$(dirname "$0")/.."
. tools/described_environment.sh
described_environment stores
python -m pytest -p no:cacheprovider tests/stores "$@"
