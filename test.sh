#!/usr/bin/env bash
# Sets everything up and runs linters, type checks and all tests. Arguments go to pytest.
#
# RR_TEST_DATA: a folder with real tokenizers and judged collections; tests that need it are
# skipped, and say so, when it is not set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
./setup.sh --dev --demo
bin=.venv/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/shellcheck" ./*.sh .ci/run
exec "$bin/python" -m pytest tests/ "$@"
