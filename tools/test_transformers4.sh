#!/bin/sh
# What we write loads in transformers 4.46 too: converts in the main environment, loads in one of its own. And the
# built-in table of names says nothing else than transformers 4.46 does.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
. tools/environment.sh
. tools/described_environment.sh
converted=$(mktemp -d)
trap 'rm -rf "$converted"' EXIT
(environment test -e ".[deepspeed,test,lint]" && python tools/convert_models.py "$converted")
described_environment transformers4
CONVERTED_MODELS=$converted python -m pytest -p no:cacheprovider tests/models/test_loads_transformers4.py \
    tests/tools/test_names_table4.py "$@"
