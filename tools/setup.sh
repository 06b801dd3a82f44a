#!/bin/sh
# Make .venv and install ctxsweep into it: `tools/setup.sh run` what a sweep needs, `test` also what
# tests and linters need. Called by make, only when pyproject.toml, constraints/ or this file changed.
set -eu
cd "$(dirname "$0")/.."
want=$1
venv=.venv

say() { printf 'setup: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for python in ${PYTHON:-python3 python python3.14 python3.13 python3.12 python3.11}; do
        if new_enough "$python"; then echo "$python"; return; fi
    done
    found=$(python3 --version 2>/dev/null || echo none)
    fail "Python 3.11 or newer is needed (found: $found). Install it, or name it: make setup PYTHON=/path/to/python3.11"
}

if ! [ -x $venv/bin/python ] || ! new_enough $venv/bin/python; then
    python=$(find_python)
    say "creating $venv with $("$python" --version)"
    "$python" -m venv --clear $venv ||
        fail "cannot create $venv; on Debian and Ubuntu: apt install python3-venv"
fi

if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
    device=cuda; extras=triton
    say "NVIDIA GPU found: installing under constraints/cuda.txt"
else
    device=cpu; extras=
    say "no NVIDIA GPU found: installing under constraints/cpu.txt"
fi
[ "$want" = test ] && extras="${extras:+$extras,}test,lint"

pip() { $venv/bin/python -m pip --disable-pip-version-check "$@"; }

torch=$(grep '^torch==' constraints/cpu.txt)
if [ "$(pip list 2>/dev/null | sed -n 's/^torch  *\([0-9.]*\).*/torch==\1/p')" != "$torch" ]; then
    say "installing $torch (the largest part; minutes on a slow line)"
    pip install -qq -c constraints/$device.txt "$torch"
fi
say "installing ctxsweep${extras:+ with $extras}"
pip install -qq -c constraints/$device.txt -e ".${extras:+[$extras]}"
say "done; try: make sweep SCENARIO=smoke"
