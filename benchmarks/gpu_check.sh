#!/usr/bin/env bash
# What this server does on a GPU: is it correct there, and how fast? Each part takes at most five minutes.
#
#   benchmarks/gpu_check.sh [correctness|speed] [OUT] [--device cpu] [--tiny] [--only STAGE...]
#
# Both parts without a name. OUT ($OUT, else benchmarks/results/gpu) gets each finding as it comes: findings.txt to read,
# findings.jsonl for programs, errors.txt with tracebacks. `--device cpu --tiny` tries the script itself out;
# `--only` runs some of the stages (--help names them).
#
# The machine needs Python 3.11 or newer, torch, transformers and sentence-transformers, and no network: what else is
# missing is unpacked from .gpu-carry/, which benchmarks/gpu_carry.sh fills, and nothing is installed. PYTHON: the
# interpreter (python3). RR_TEST_DATA: the folder with real tokenizers and texts (.gpu-carry/data).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
site="$(mktemp -d)"
trap 'rm -rf "$site"' EXIT
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH="$PWD/src:$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
export RR_TEST_DATA="${RR_TEST_DATA:-$PWD/.gpu-carry/data}"
"$python" -m benchmarks.gpu.missing .gpu-carry/wheels "$site"
"$python" -m benchmarks.gpu "$@"
