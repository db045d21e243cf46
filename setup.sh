#!/usr/bin/env bash
# Creates .venv and installs the server into it.
#
#   ./setup.sh           what the server needs
#   ./setup.sh --dev     and what its tests need
#   ./setup.sh --demo    and the demo model
#
# TORCH_INDEX_URL: install torch from this package index instead, such as PyTorch's index of
# CPU builds on a machine without a GPU: much smaller than the default build on Linux.
# PYTHON: the interpreter to use (3.11 or newer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

dev=no demo=no
for argument in "$@"; do
  case "$argument" in
    --dev) dev=yes ;;
    --demo) demo=yes ;;
    *) echo "usage: ./setup.sh [--dev] [--demo]" >&2; exit 2 ;;
  esac
done

find_python() {
  for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 or newer is needed; install it, or set PYTHON to one" >&2
  return 1
}

# install NAME PIP_ARGUMENT...: once, and again only when one of the requirements files changes.
install() {
  local stamp=".venv/.installed-$1"
  shift
  local wanted
  wanted="$(cat requirements*.txt pyproject.toml | cksum)"
  if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"
    echo "$wanted" > "$stamp"
  fi
}

if ! .venv/bin/python -c '' 2>/dev/null; then
  python="$(find_python)"
  echo "creating .venv with $("$python" --version)"
  "$python" -m venv --clear .venv
fi

if [ ! -f .venv/.installed-server ]; then
  echo "installing; the first time takes minutes, most of them for PyTorch"
fi
if [ -n "${TORCH_INDEX_URL:-}" ]; then
  echo "torch comes from TORCH_INDEX_URL=$TORCH_INDEX_URL"
  install torch --index-url "$TORCH_INDEX_URL" "$(grep '^torch==' requirements.txt)"
elif [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && [ ! -f .venv/.installed-server ]; then
  echo "no NVIDIA driver found: TORCH_INDEX_URL can name an index of smaller, CPU-only builds of torch"
fi
install server -r requirements.txt
if [ "$dev" = yes ]; then install dev -r requirements-dev.txt; fi
if [ "$demo" = yes ]; then install demo --no-deps -r requirements-demo.txt; fi
