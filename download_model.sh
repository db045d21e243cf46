#!/usr/bin/env bash
# Fetches a model for offline use: ./download_model.sh BAAI/bge-reranker-v2-m3 ./models
# writes ./models/BAAI_bge-reranker-v2-m3. With --revision REVISION it is that commit, tag or branch.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: ./download_model.sh MODEL DIR [--revision REVISION]" >&2
  exit 2
fi
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
"$root/setup.sh"
exec "$root/.venv/bin/python" -m reranker_serve download "$@"
