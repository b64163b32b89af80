# Makes .venv where there is none that works, and installs the given requirements file into it:
#     PYTHON=python3.12 sh tools/install.sh requirements.txt
#     sh tools/install.sh bench/requirements.txt .venv-bench    in a folder of another name
# With uv if it is there, otherwise with venv and pip. Called by the Makefile.
set -eu
venv=${2:-.venv}

fail() {
    echo "$1" >&2
    exit 1
}

recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
        if recent "$candidate"; then
            echo "$candidate"
            return
        fi
        if [ "$candidate" = "${PYTHON:-}" ]; then
            fail "PYTHON=$PYTHON is not a Python 3.11 or newer."
        fi
    done
}

works() { # pyvenv.cfg: without it, $venv/bin/python is the system's
    [ -f "$venv/pyvenv.cfg" ] && recent "$venv/bin/python" && { [ -n "$uv" ] || "$venv/bin/python" -m pip --version >/dev/null 2>&1; }
}

make_venv() {
    rm -rf "$venv"
    python=$(find_python)
    if [ -n "$uv" ]; then
        uv venv --quiet --python "${python:->=3.11}" "$venv"
        return
    fi
    if [ -z "$python" ]; then
        if command -v python3 >/dev/null 2>&1; then
            fail "$(python3 --version 2>&1) is too old: install Python 3.11 or newer, or uv."
        fi
        fail "Python is missing: install Python 3.11 or newer (Debian, Ubuntu: apt install python3 python3-venv), or uv."
    fi
    # Without ensurepip, which Debian leaves out, venv fails halfway.
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "Python's venv module is missing: run apt install python$version-venv (Debian, Ubuntu), or install uv."
    fi
    "$python" -m venv "$venv"
}

uv=$(command -v uv || true)
native=$(cat "$venv/.native-argon2" 2>/dev/null || true) # the version that `make native-argon2` built
if ! works; then
    trap 'rm -rf "$venv"' EXIT
    trap 'exit 130' INT TERM
    make_venv
    works || fail "$venv could not be made: see the lines above."
    trap - EXIT INT TERM
fi

echo "Installing $1 into $venv ..."
if [ -n "$uv" ]; then
    uv pip install --quiet --python "$venv/bin/python" --require-hashes -r "$1"
else
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$1"
fi

# A new version comes as the wheel, and so does everything in a new .venv.
if [ -n "$native" ] && ! { [ -f "$venv/.native-argon2" ] && grep -q "^argon2-cffi-bindings==$native " "$1"; }; then
    rm -f "$venv/.native-argon2"
    echo "argon2 is the slower wheel again: run make native-argon2 to build it for this processor."
fi
