#!/bin/sh
# Every command and every example on the pages of docs/ and in the README. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
. tools/environment.sh
environment test -e ".[deepspeed,test,lint]"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Only files that have such tests are read: collecting all takes half as long as they do.
files=$(grep -rlw --include='test_*.py' 'mark\.pages' tests | tr '\n' ' ')
exec python -m pytest -n 2 -o "testpaths=$files" -m pages "$@"
