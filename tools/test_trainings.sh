#!/bin/sh
# Trainings of a minute or more: the Trainer, accelerate and Lightning resume, saves are converted beside a training, a
# run goes on after a lost rank, engines and plain loops take what a checkpoint has. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
. tools/environment.sh
environment test -e ".[deepspeed,test,lint]"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec python -m pytest -n 2 -m "long and not heavy" "$@"
