#!/bin/sh
# What takes a minute or more. Trainings: the Trainer, accelerate and Lightning resume, saves are converted beside a
# training, a run goes on after a lost rank, engines and plain loops take what a checkpoint has. System calls that fail
# in turn; disks that share blocks, cut off from power. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
. tools/environment.sh
environment test -e ".[deepspeed,test,lint]"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Only files that have such tests are read: collecting all takes as long as some of them.
files=$(grep -rlw --include='test_*.py' 'mark\.long' tests | tr '\n' ' ')
exec python -m pytest -n 2 -o "testpaths=$files" -m "long and not heavy" "$@"
