# Sourced by the other scripts: `environment NAME REQUIREMENT...` makes the virtual environment .venv/NAME, once for
# a given set of requirements, and puts it first on PATH. `constraints` names another file than constraints.txt. Needs Python 3.11 or newer (PYTHON chooses which).

# Each process would compile what it imports again.
unset PYTHONDONTWRITEBYTECODE

environment() {
    name=$1
    shift
    venv=$PWD/.venv/$name
    wanted="$* $(cat "${constraints:-constraints.txt}" pyproject.toml | cksum)"
    if [ "$(cat "$venv/.made_of" 2>/dev/null)" != "$wanted" ]; then
        echo "making .venv/$name ($*)" >&2
        "${PYTHON:-python3}" -m venv --clear "$venv"
        # Most of what is installed is never imported: the first that imports a module compiles it.
        pip="$venv/bin/python -m pip install -q --no-compile --disable-pip-version-check -c ${constraints:-constraints.txt}"
        # torch first and by its pinned version: nothing that comes later may choose another build of it.
        $pip torch==2.13.0 "setuptools<81" wheel ninja
        # deepspeed builds its operators when they are first used; at install time it only needs to see torch.
        DS_BUILD_OPS=0 $pip "$@"
        printf '%s' "$wanted" >"$venv/.made_of"
    fi
    PATH=$venv/bin:$PATH
    export PATH
}
