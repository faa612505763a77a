# shellcheck shell=bash
# What the launchers share; sourced, never run. Nothing here knows what a run is: `megacode check` is asked.
#   find_python ROOT        sets python: the project's environment (MEGACODE_VENV, else ROOT/.venv), else python3
#   ask_check ARGS...       sets world_size and folder; ends with check's own exit code where the run cannot start
#   start_ranks SIGNAL CMD  runs CMD, passes a request to stop on to it as SIGNAL, sets rc
#   await PID               waits for PID whatever signals come, sets rc
#   torchrun_here VERB ARGS `megacode VERB` on world_size ranks of this machine, through torchrun; sets rc
#   clear_markers, marked, end_of_run  what rank 0 left in the run's folder decides: 0 if it finished or stopped cleanly

say() { echo "$(basename "$0"): $*" >&2; }

wrong() {
  say "$*"
  exit 2
}

usage() { sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0" >&2; }

need_run_file() {
  case ${1:-} in
    -h | --help) usage && exit 0 ;;
    "" | -* | *=*) say "the first argument must be the run's file, RUN.toml" && usage && exit 2 ;;
  esac
}

find_python() {
  python=${MEGACODE_VENV:-$1/.venv}/bin/python
  if [ ! -x "$python" ]; then
    [ -z "${MEGACODE_VENV:-}" ] || wrong "MEGACODE_VENV=$MEGACODE_VENV has no bin/python: run launch/setup.sh"
    python=$(command -v python3) || wrong "no Python here: run launch/setup.sh first"
  fi
  # The working directory stays out of sys.path: a folder in it must not shadow an installed package.
  export PYTHONSAFEPATH=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  # Off, one killed rank takes the rendezvous store with it, and neither the others nor a restart get any further.
  export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=${TORCH_DISABLE_SHARE_RDZV_TCP_STORE:-1}
}

ask_check() {
  local answer arguments=("$1") argument
  shift
  for argument in "$@"; do # options of the verb itself are none of check's
    case $argument in -*) ;; *=*) arguments+=("$argument") ;; esac
  done
  answer=$("$python" -m megacode check "${arguments[@]}" --json) || exit $?
  { read -r world_size && read -r folder; } < <(
    "$python" -c 'import json, sys; a = json.load(sys.stdin); print(a["world_size"], a["folder"], sep="\n")' \
      <<<"$answer"
  ) || { say "megacode check did not name world_size and folder; it said: $answer" && exit 1; }
}

# Markers of an earlier start must not speak for this one.
clear_markers() { rm -f "$folder/STOPPED" "$folder/FINISHED"; }

pass_on() { # SIGNAL NAME
  say "got $2, asking the ranks to stop at the next step (again after 5 s: end them now)"
  if [ -z "$asked" ]; then
    asked=$SECONDS
    [ -z "$ranks" ] || kill -s "$1" "$ranks" || true
  elif [ $((SECONDS - asked)) -ge 5 ]; then
    kill_tree "$ranks"
  fi
}

kill_tree() { # PID: leaves first; a process group would not do, torchrun's and mpiexec's ranks have their own
  local child
  # shellcheck disable=SC2013  # words are meant
  for child in $(cat "/proc/$1/task/"*/children 2>/dev/null); do kill_tree "$child"; done
  kill -s KILL "$1" 2>/dev/null || true
}

start_ranks() {
  local signal=$1 name
  shift
  asked='' ranks='' rc=0
  # shellcheck disable=SC2064  # the values of now are meant
  for name in TERM INT HUP USR1; do trap "pass_on $signal $name" "$name"; done
  # A process group of its own: the terminal's Ctrl-C then comes to us alone and is passed on once.
  set -m
  "$@" </dev/null &
  ranks=$!
  set +m
  [ -z "$asked" ] || kill -s "$signal" "$ranks"
  await "$ranks"
}

await() { # PID: sets rc to its exit code, however often a trapped signal ends `wait` early
  while wait "$1" || true; kill -0 "$1" 2>/dev/null; do :; done
  rc=0
  wait "$1" 2>/dev/null || rc=$?
}

marked() { # MARKER: whether rank 0 left it since our start; the listing makes a network file system look again
  ls "$folder" >/dev/null 2>&1 || true
  [ -e "$folder/$1" ]
}

end_of_run() {
  # torchrun answers 1 after any stop on a signal, also the cleanest; rank 0's marker decides.
  if marked FINISHED; then exit 0; fi
  if marked STOPPED; then
    say "stopped on request; the same command goes on from the checkpoint in $folder"
    exit 0
  fi
  exit "$rc"
}

torchrun_here() { # VERB ARGS...
  local verb=$1
  shift
  start_ranks TERM "$python" -m torch.distributed.run --standalone --local-addr=127.0.0.1 \
    --nproc-per-node="${NPROC:-$world_size}" --max-restarts="${MAX_RESTARTS:-0}" --shutdown-timeout="${GRACE:-300}" \
    -m megacode "$verb" "$@"
}
