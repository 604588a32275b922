#!/bin/sh
# Ray, Dask and MPI write the weights, in an environment of their own: workers killed, the scheduler restarted, whoever
# hands out the tasks killed and run again. Each test has a limit of time; so have all together, should a library of
# theirs not let go.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
. tools/described_environment.sh
described_environment clusters
timeout --kill-after=10 600 python -m pytest -p no:cacheprovider tests/integrations/test_engines.py "$@"
