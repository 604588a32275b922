#!/bin/sh
# The wheel and the sdist: built twice, checked, installed into an empty environment without torch, used there.
# With --extras: what each extra would bring, by uv; nothing of it is installed.
# With --pythons: installed with every supported Python that is found here, and tests that need no torch run with each.
set -eu
cd "$(dirname "$0")/.."
. tools/described_environment.sh
described_environment packaging
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
PYTHONPATH=tools python -m packaging_check "$folder" "$@"
