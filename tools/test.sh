#!/bin/sh
# All tests that run in one environment, the live DeepSpeed runs among them. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
. tools/environment.sh
environment test -e ".[deepspeed,test,lint]"
exec python -m pytest "$@"
