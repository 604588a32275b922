#!/bin/sh
# The main job on a real checkpoint: a Hugging Face Trainer fine-tune under ZeRO-3, as it was saved.
set -eu
cd "$(dirname "$0")/.."
. tools/environment.sh
environment run .

output=${1:-demo-model}
rm -rf "$output"
zeroconsolidate inspect tests/fixtures/trainer_zero3_tied/checkpoint
echo
zeroconsolidate convert tests/fixtures/trainer_zero3_tied/checkpoint "$output"
echo
ls -l "$output"
