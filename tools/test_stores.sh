#!/bin/sh
# Checkpoints and outputs in object stores, against servers on loopback that also fail: S3 (moto's), Azure's (azurite, if
# there is npm) and Google's (an emulator), and against a stand-in for the Hugging Face hub; in an environment that has
# their clients.
set -eu
cd "$(dirname "$0")/.."
. tools/described_environment.sh
described_environment stores
azurite=3.35.0 # the last for node 20
if ! command -v npm >/dev/null; then
    echo "without npm, tests of az:// are skipped" >&2
elif [ "$(cat .venv/azurite/.made_of 2>/dev/null)" != "$azurite" ]; then
    echo "making .venv/azurite" >&2
    rm -rf .venv/azurite
    mkdir .venv/azurite
    npm install --prefix .venv/azurite --no-audit --no-fund --loglevel error "azurite@$azurite"
    printf '%s' "$azurite" >.venv/azurite/.made_of
fi
python -m pytest -p no:cacheprovider -n 2 --dist worksteal tests/stores "$@"
