#!/usr/bin/env bash
# From raw source code to a trained code model that Hugging Face tools load, on this machine.
#   bash launch/quickstart.sh [--source DIR_OR_FILE] [--out DIR] [--tp N] [--pp N] [--dp N] [section.key=value ...]
# Sets up the environment first. Run again, it reuses what is done.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$root/launch/common.sh"

arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage && exit 0 ;;
    --tp | --pp | --dp)
      [ $# -ge 2 ] || { say "$1 needs a number" && exit 2; }
      arguments+=("parallel.${1#--}=$2") && shift
      ;;
    --source | --out)
      [ $# -ge 2 ] || { say "$1 needs a path" && exit 2; }
      arguments+=("$1" "$2") && shift
      ;;
    *=*) arguments+=("$1") ;;
    *) say "unknown option $1" && usage && exit 2 ;;
  esac
  shift
done

bash "$root/launch/setup.sh"
find_python "$root"
exec "$python" -m megacode quickstart "$root/examples/tiny_cpu.toml" ${arguments[@]+"${arguments[@]}"}
