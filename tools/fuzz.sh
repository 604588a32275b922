#!/bin/sh
# Fuzzes the reader: sh tools/fuzz.sh [SECONDS_PER_TARGET] [TARGET...]. Figures are printed at the end of each target.
set -eu
cd "$(dirname "$0")/.."
. tools/environment.sh
environment fuzz -e ".[fuzz]"
seconds=${1:-360}
[ $# -eq 0 ] || shift
for target in ${*:-pickles containers catalogs folders safetensors configs}; do
    python tools/fuzz/seed.py "$target"
    python tools/fuzz/run.py "$target" "$seconds" 2>&1 | tee ".fuzz/$target.log" | grep -E "stat::|ERROR|Exception|DONE" || true
done
