#!/bin/sh
# The documentation site: built strictly, from what is here, without the network; then every link in it is followed.
# It is in .venv/site-html unless a folder is named.
set -eu
cd "$(dirname "$0")/.."
. tools/described_environment.sh
described_environment site
PYTHONPATH=$PWD/tools:$PYTHONPATH python -m website "${1:-.venv/site-html}"
