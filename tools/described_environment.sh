# Sourced by suites of other environments: `described_environment NAME` makes .venv/NAME of tools/envs/NAME.txt, once
# for each content of that file, and puts it first on PATH. The package is imported from the working tree.

# Each process would compile what it imports again.
unset PYTHONDONTWRITEBYTECODE

described_environment() {
    venv=$PWD/.venv/$1
    wanted=$(cksum <"tools/envs/$1.txt")
    if [ "$(cat "$venv/.made_of" 2>/dev/null)" != "$wanted" ]; then
        echo "making .venv/$1 (tools/envs/$1.txt)" >&2
        rm -rf "$venv"
        "${PYTHON:-python3}" tools/envs/create.py "$1" "$venv"
        printf '%s' "$wanted" >"$venv/.made_of"
    fi
    PATH=$venv/bin:$PATH
    PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
    export PATH PYTHONPATH
}
