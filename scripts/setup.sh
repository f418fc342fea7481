#!/usr/bin/env bash
# Make .venv: find a Python, install opkit with the pinned versions. Does nothing when up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'setup: %s\n' "$@" >&2; exit 1; }
say() { printf 'setup: %s\n' "$@" >&2; }

stamp=.venv/.opkit-setup
# a venv works at one place only, so the place is part of the key
key="$(cat pyproject.toml constraints.txt scripts/setup.sh | cksum) $PWD"
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then exit 0; fi

# a shim that is installed but not selected (pyenv) exists and fails: run each candidate
usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; }

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON: no such command"
    usable "$PYTHON" || die "PYTHON=$PYTHON: need Python 3.12 or newer"
    command -v "$PYTHON"
    return
  fi
  # 3.12 first: the versions in constraints.txt were tested with it
  for candidate in python3.12 python3.13 python3.14 python3 \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.{12,13,14}.*/bin/python3; do
    if command -v "$candidate" >/dev/null && usable "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  if command -v uv >/dev/null; then
    candidate="$(uv python find '>=3.12' 2>/dev/null)" ||
      { uv python install 3.12 >&2 && candidate="$(uv python find '>=3.12')"; } ||
      die "uv could not install Python 3.12"
    echo "$candidate"
    return
  fi
  die "no Python 3.12 or newer: looked at \$PYTHON, PATH, pyenv and uv." \
    "Install one (Debian/Ubuntu: apt install python3.12-venv python3.12-dev; macOS: brew install python@3.12;" \
    "anywhere: uv python install 3.12), or name it: make setup PYTHON=/path/to/python3.12"
}

if [ -x .venv/bin/python ] && ! { usable .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
  say "the Python of .venv is gone or too old; making .venv again"
  rm -rf .venv
fi
if [ -d .venv ] && [ ! -x .venv/bin/python ]; then rm -rf .venv; fi
if [ ! -d .venv ]; then
  python="$(find_python)"
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    die "$python cannot make virtual environments: install its venv package (Debian/Ubuntu: apt install python3-venv)"
  say "making .venv with $python ($("$python" -V))"
  "$python" -m venv .venv
fi

say "installing opkit and what it needs (some gigabytes the first time: PyTorch with its GPU libraries)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
  -c constraints.txt -e '.[dev,docs]' ||
  die "pip could not install opkit: see its message above; then run make setup again"

command -v cc >/dev/null || command -v gcc >/dev/null ||
  say "warning: no C compiler. The fenicsx solver compiles its forms when it runs and needs one" \
    "(Debian/Ubuntu: apt install gcc libc6-dev). Everything else works without."
.venv/bin/python -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
  say "warning: Python.h is missing, which the fenicsx solver needs (Debian/Ubuntu: apt install python3-dev)."

echo "$key" > "$stamp"
say "done: .venv is ready (. .venv/bin/activate gives you the opkit command)"
