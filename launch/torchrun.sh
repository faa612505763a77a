#!/usr/bin/env bash
# Trains on the ranks of this machine; run again, it resumes from the newest checkpoint.
#   bash launch/torchrun.sh RUN.toml [section.key=value ...]
# TERM, INT (Ctrl-C), HUP or USR1: the ranks stop at the next step, save, and this ends with 0.
#   NPROC=N         ranks to start (default: what RUN.toml asks for)
#   MAX_RESTARTS=N  restarts after a rank died (default 0)
#   GRACE=SECONDS   for the checkpoint of a stop (default 300)
#   OMP_NUM_THREADS CPU threads a rank (default 1);  MEGACODE_VENV=DIR  the Python environment (default .venv)
# Exit code: 0 finished or stopped on request, 2 RUN.toml is wrong (nothing was started), else torchrun's.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$root/launch/common.sh"
find_python "$root"
need_run_file "$@"
ask_check "$@"
clear_markers
torchrun_here train "$@"
end_of_run
