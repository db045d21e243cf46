#!/usr/bin/env bash
# Runs the server, setting it up first if that is needed. Relative paths in settings are
# relative to this folder, where .env is.
#
#   ./run.sh              the configured model
#   ./run.sh --demo       a small demo model, no download from a hub
#   ./run.sh --dev        restart when the source changes
#
# Other arguments go to `reranker-serve serve`, such as --port 9000.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

count=$#
demo=()
for ((i = 0; i < count; i++)); do
  argument="$1"
  shift
  case "$argument" in
    --dev) set -- "$@" --reload ;;
    --demo) demo=(--demo); set -- "$@" --demo ;;
    *) set -- "$@" "$argument" ;;
  esac
done

./setup.sh ${demo[@]+"${demo[@]}"}
exec .venv/bin/python -m reranker_serve serve "$@"
