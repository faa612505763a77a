#!/usr/bin/env bash
# Trains on ranks that MPI starts: this machine's, or a cluster's whose nodes mpiexec knows.
#   bash launch/mpirun.sh RUN.toml [section.key=value ...]
# MPI only says who is who and where rank 0 listens (launch/mpi_rank.py); training talks through torch.distributed.
# TERM, INT (Ctrl-C), HUP or USR1: the ranks stop at the next step, save, and this ends with 0.
#   NPROC=N          ranks to start (default: what RUN.toml asks for)
#   MPIEXEC=PATH     default: mpiexec of the Python environment (pip install mpich), else of PATH
#   MPI_ARGS="..."   more arguments for mpiexec, for example MPI_ARGS="-hosts a,b -ppn 8"
#   MASTER_ADDR, MASTER_PORT  where rank 0 listens (default: its host name, or 127.0.0.1 on one node, and a free port)
#   OMP_NUM_THREADS  CPU threads a rank (default 1);  MEGACODE_VENV=DIR  the Python environment (default .venv)
# Exit code: 0 finished or stopped on request, 2 RUN.toml is wrong or there is no MPI (nothing was started), else
# mpiexec's. One rank that fails ends all of them.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$root/launch/common.sh"
find_python "$root"
need_run_file "$@"
ask_check "$@"

mpiexec=${MPIEXEC:-$(dirname "$python")/mpiexec}
[ -x "$mpiexec" ] || mpiexec=$(command -v "${MPIEXEC:-mpiexec}" || command -v mpirun) ||
  wrong "no mpiexec: pip install mpich mpi4py in the environment, or load the cluster's MPI module, or set MPIEXEC"
read -ra arguments <<<"${MPI_ARGS:-}"
case $("$mpiexec" --version 2>&1 || true) in
  *"Open MPI"* | *OpenRTE* | *PRRTE*)
    arguments+=(--oversubscribe -x OMP_NUM_THREADS -x PYTHONSAFEPATH)
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
    ;;
esac
clear_markers
# USR1, not TERM: every mpiexec passes it on and waits, where TERM makes it kill the ranks.
start_ranks USR1 "$mpiexec" -n "${NPROC:-$world_size}" ${arguments[@]+"${arguments[@]}"} \
  "$python" "$root/launch/mpi_rank.py" train "$@"
end_of_run
