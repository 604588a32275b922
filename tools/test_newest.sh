#!/bin/sh
# The newest releases that there are today, whatever constraints.txt pins: DeepSpeed trains and its saves are converted
# bit for bit; transformers, PEFT and sentence-transformers load what we write. Says which are newer than the pinned ones.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
python3 tools/envs/create.py newest .venv/newest --upgrade
PATH=$PWD/.venv/newest/bin:$PATH
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export PATH PYTHONPATH
for package in deepspeed transformers accelerate peft safetensors sentence-transformers numpy; do
    newest=$(python -c "from importlib.metadata import version; print(version('$package'))")
    pinned=$(sed -n "s/^$package==//p" constraints.txt)
    [ "$newest" = "$pinned" ] && note="" || note=" (constraints.txt: $pinned)"
    echo "$package $newest$note"
done
# Each of these packages is there: a test that is skipped would be one that takes the newest release for something else.
python -m pytest -p no:cacheprovider tests/live/test_live.py tests/models/test_transformers.py \
    tests/models/test_loads_transformers5.py tests/models/test_sentence_transformers.py \
    -k "not a_little_off and not sharded and not would_be" --junit-xml=.venv/newest/results.xml "$@"
if grep -q '<skipped' .venv/newest/results.xml; then
    echo "tests were skipped with the newest releases" >&2
    exit 1
fi
