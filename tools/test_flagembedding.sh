#!/bin/sh
# FlagEmbedding's and sentence-transformers' own classes load what we write, in an environment that has both, and a
# release of transformers 5 that is older than the one of the main environment: names and loading are tested with it too.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
. tools/described_environment.sh
described_environment flagembedding
python -m pytest -p no:cacheprovider tests/models/test_flagembedding.py tests/models/test_sentence_transformers.py \
    tests/models/test_loads_transformers5.py tests/integrations/test_architecture.py tests/answers/test_by_library.py "$@"
