#!/usr/bin/env bash
# Measures a run's steps on ranks of this machine: layouts, settings and other engines in turns (docs/performance.md).
#   bash launch/bench.sh RUN.toml [section.key=value ...] [--layouts 1x1x1,2x1x1] [--against plain,torchtitan]
#     [--with section.key=value] [--precision bf16,fp32] [--steps N] [--json] [--peers-env DIR]
#   --peers-env DIR     the other engines' environment (default .venv-peers in the project), made where it is missing
#   --peers-python PATH an interpreter that has them already: nothing is installed
#   MEGACODE_PYTHON     what makes the other engines' environment (default python3);  MEGACODE_VENV  ours (default .venv)
# Exit code: 0 measured, 1 a layout of ours failed, 2 a wrong configuration or call (nothing was started).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$root/launch/common.sh"
find_python "$root"
need_run_file "$@"

peers=$root/.venv-peers against='' ready='' arguments=() checked=()
while [ $# -gt 0 ]; do
  case $1 in
    --peers-env=*) peers=${1#*=} && shift && continue ;;
    --peers-env)
      [ $# -ge 2 ] || wrong "--peers-env needs a folder"
      peers=$2 && shift 2 && continue
      ;;
    --against=*) against=${1#*=} ;;
    --against) against=${2:-} ;;
    --peers-python*) ready=yes ;;
    --with)
      [ $# -ge 2 ] || wrong "--with needs section.key=value"
      arguments+=("$1") && shift
      ;;
    -*) ;;
    *.toml | *=*) checked+=("$1") ;;
  esac
  arguments+=("$1")
  shift
done

# Never into our environment: what the other engines need must not decide what ours runs with.
install_peers() {
  local pinned want packages bare=()
  pinned=$(grep -E '^(torch|numpy|transformers|triton|safetensors)==' "$root/constraints.txt")
  packages="$pinned einops packaging pybind11 PyYAML requests"
  case ,$against, in
    # Its metadata asks for a newer Python than it needs, and for packages that a benchmark does not use.
    *,megatron-core,*) bare=(--ignore-requires-python megatron-core==0.19.2) ;;
  esac
  case ,$against, in
    # Its data sets, loggers and checkpoints are dozens of packages; its modules and parallelisms need two.
    *,torchtitan,*) bare+=(torchtitan==0.3.0 spmd_types==0.2.3) && packages+=' tyro==1.0.17' ;;
  esac
  want=$(echo "$packages ${bare[*]-}" | sha256sum | cut -d' ' -f1)
  if grep -qs "$want" "$peers/.megacode-peers"; then return; fi
  say "installing the other engines into $peers; some minutes the first time"
  [ -x "$peers/bin/python" ] || "${MEGACODE_PYTHON:-python3}" -m venv "$peers"
  # shellcheck disable=SC2086  # words are meant
  "$peers/bin/python" -m pip install --quiet $packages
  if [ ${#bare[@]} -gt 0 ]; then "$peers/bin/python" -m pip install --quiet --no-deps "${bare[@]}"; fi
  echo "$want" >>"$peers/.megacode-peers"
}

if [ -n "$against" ] && [ -z "$ready" ]; then
  ask_check "${checked[@]}" # before minutes are spent
  install_peers || { say "the other engines could not be installed into $peers" && exit 2; }
  arguments+=(--peers-python "$peers/bin/python")
fi
exec "$python" -m megacode bench "${arguments[@]}"
