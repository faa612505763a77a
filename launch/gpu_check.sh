#!/usr/bin/env bash
# On a machine with a GPU: are the Triton kernels right, and how fast beside other implementations and the hardware?
#   bash launch/gpu_check.sh [--out results.json] [--op NAME] [--quick] [--tune] [--seconds N] [--json]
#   --op NAME    only this operation: attention, layer_norm, adamw, ...;  --quick  fewer timed runs
#   --tune       time every candidate tile of the attention too
#   --seconds N  no further case starts after these (default 150)
#   MEGACODE_VENV=DIR  the Python environment (default .venv); it needs torch, triton, typer and rich, nothing else
# Exit code: 0 all are right, 1 a finding, 2 no GPU or a wrong call.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$root/launch/common.sh"
case ${1:-} in -h | --help) usage && exit 0 ;; esac
find_python "$root"
# From a checkout that is not installed too.
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
exec "$python" -m megacode kernels check "$@"
