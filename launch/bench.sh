#!/usr/bin/env bash
# Measures the speed of a run's steps on the ranks of this machine: `megacode bench`, started like training.
#   bash launch/bench.sh RUN.toml [section.key=value ...] [bench options]
# Environment as in launch/torchrun.sh.
# Exit code: 0 measured, 2 RUN.toml is wrong (nothing was started), else torchrun's.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$root/launch/common.sh"
find_python "$root"
need_run_file "$@"
ask_check "$@"
torchrun_here bench "$@"
exit "$rc"
