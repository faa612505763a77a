#!/usr/bin/env bash
# Makes .venv and installs megacode with the pinned versions. Quick when nothing changed.
#   MEGACODE_PYTHON=python3.12   the interpreter to use (3.11 or newer)
#   MEGACODE_EXTRAS=data,hf,...  what to install beside the engine
#   MEGACODE_VENV=DIR            where the environment lives (default: .venv in the project)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${MEGACODE_PYTHON:-python3}
extras=${MEGACODE_EXTRAS:-data,syntax,hf,dev,mpi}
venv=${MEGACODE_VENV:-$root/.venv}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: $python is $("$python" -V 2>&1); megacode needs Python 3.11 or newer: set MEGACODE_PYTHON" >&2
  exit 2
}
want=$(cat "$root/setup.py" "$root/constraints.txt" <(echo "$extras $root") | sha256sum | cut -d' ' -f1)
if [ "$(cat "$venv/.megacode-installed" 2>/dev/null)" = "$want" ]; then exit 0; fi

echo "setup: installing into $venv (extras: $extras); a minute or three the first time" >&2
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
rm -f "$venv/.megacode-installed"
# torch first and by exact version: a bare `torch` from a dependency could bring another build.
torch=$(grep '^torch==' "$root/constraints.txt")
"$venv/bin/pip" install --quiet -c "$root/constraints.txt" "$torch" "setuptools>=70,<81"
"$venv/bin/pip" install --quiet --no-build-isolation -c "$root/constraints.txt" -e "${root}[$extras]"
echo "$want" >"$venv/.megacode-installed"
echo "setup: ready" >&2
