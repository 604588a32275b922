#!/bin/sh
# The main job on a real checkpoint: BGE-M3 fine-tuned with FlagEmbedding under ZeRO-3, whose own weights files are
# empty. What is made of its shards is loaded with FlagEmbedding and compared with what the live engine answered.
set -eu
cd "$(dirname "$0")/.."
. tools/environment.sh
# FlagEmbedding 1.4.2 imports a module that transformers 5.24 no longer has.
mkdir -p .venv
constraints=.venv/demo-constraints.txt
sed 's/^transformers==.*/transformers==5.23.0/' constraints.txt >"$constraints"
environment demo . FlagEmbedding sentence-transformers transformers

case=tests/fixtures/models/m3_z3
output=${1:-demo-model}
rm -rf "$output"
# 3 says that training would not resume exactly: the schedule and the random states are not kept in this repository.
zeroconsolidate inspect "$case/checkpoint" || [ $? -eq 3 ]
echo
zeroconsolidate convert "$case/checkpoint" "$output"
echo
python tools/compare_with_live.py "$case" "$output"
echo
ls -l "$output"
