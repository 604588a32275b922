#!/bin/sh
# Every command and every example on the pages of docs/ and in the README. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
. tools/environment.sh
environment test -e ".[deepspeed,test,lint]"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec python -m pytest -n 2 -m pages "$@"
