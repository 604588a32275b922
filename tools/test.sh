#!/bin/sh
# The tests that run in one environment, live DeepSpeed runs among them, but for those of `test_long.sh` and
# `test_pages.sh`. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
. tools/environment.sh
environment test -e ".[deepspeed,test,lint]"
# Two at a time: most tests wait for processes of their own. One thread each, or they would get in each other's way.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec python -m pytest -n 2 -m "not heavy and not long and not pages" "$@"
