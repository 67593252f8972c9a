# Sourced by the two scripts of the README. Makes or re-uses the environment in .venv and sets PYTHON to its
# interpreter; installs again only when the project's dependencies or the packages asked for have changed.
# Usage: install_environment EXTRAS [PACKAGE ...]   (the packages without their dependencies)

find_python() {
  for candidate in "${PYTHON:-python3}" python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Python 3.10 or newer with the venv module is needed (set PYTHON to choose one)." >&2
  return 1
}

install_environment() {
  local extras=$1 base stamp wanted
  shift
  if [ ! -x .venv/bin/python ]; then
    base=$(find_python)
    echo "Making an environment in .venv ..."
    "$base" -m venv .venv
  fi
  PYTHON=$PWD/.venv/bin/python
  stamp=".venv/installed-${extras:-base}"
  wanted=$(cat pyproject.toml examples/constraints.txt; echo "$@")
  if [ ! -f "$stamp" ] || [ "$wanted" != "$(cat "$stamp")" ]; then
    echo "Installing; this takes a minute or two ..."
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -c examples/constraints.txt -e ".${extras:+[$extras]}"
    if [ $# -gt 0 ]; then
      "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps "$@"
    fi
    echo "$wanted" > "$stamp"
  fi
}
