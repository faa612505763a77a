#!/usr/bin/env bash
# Everything that must hold: style, types, and all tests. The same command for a person and for CI.
#   bash launch/test.sh [PYTEST ARGUMENTS]     arguments go to the main test run; with them, only that runs
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/launch/setup.sh"
cd "$root"
bin=${MEGACODE_VENV:-$root/.venv}/bin
export PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=true HF_HUB_OFFLINE=1

main=(--ignore tests/kernels/interpreter --ignore tests/kernels/compile --durations 8)
if [ $# -gt 0 ]; then exec "$bin/python" -m pytest "${main[@]}" "$@"; fi

"$bin/ruff" check .
"$bin/ruff" format --check --quiet .
"$bin/mypy"
# Triton decides per process whether it interprets or compiles: each way gets a process of its own.
"$bin/python" -m pytest tests/kernels/compile
"$bin/python" -m pytest tests/kernels/interpreter
"$bin/python" -m pytest "${main[@]}"
