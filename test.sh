#!/usr/bin/env bash
# Sets everything up and runs linters, type checks and all tests. Arguments go to pytest.
#
#   ./test.sh --clients   runs the tests with real client packages instead, against real servers;
#                         they are installed into .venv-clients and .venv-clients-newest
#
#   ./test.sh --reliability   runs the long forms of tests/reliability and tests/api/test_schema.py instead: an hour of
#                             load, stops, faults and wild input; RELIABILITY_SOAK_SECONDS shortens its longest part
#
#   ./test.sh --ray   runs tests/ray instead, on a Ray cluster of this machine, with Ray's own proxy and with HAProxy; Ray is
#                     installed into .venv-ray. RAY_TESTS=short leaves out HAProxy and what takes long
#
# RR_TEST_DATA: a folder with real tokenizers and judged collections; tests that need it are
# skipped, and say so, when it is not set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
./setup.sh --dev --demo
bin=.venv/bin

# clients NAME REQUIREMENTS PYTEST_ARGUMENT...: in an environment of their own, as they bring 150 packages.
clients() {
  local name="$1" requirements="$2"
  shift 2
  if [ ! -f "$name/.installed" ] || ! cmp -s "$requirements" "$name/.installed"; then
    "$bin/python" -m venv --clear "$name"
    "$name/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$name/.installed"
  fi
  "$name/bin/python" -m pytest -c tests/clients/pytest.ini --rootdir tests/clients --confcutdir tests/clients \
    tests/clients "$@"
}

# on_ray PYTEST_ARGUMENT...: in an environment with Ray, from which that of the project is seen as well.
on_ray() {
  local wanted=tests/ray/requirements.txt folder='import sysconfig; print(sysconfig.get_path("purelib"))'
  if [ ! -f .venv-ray/.installed ] || ! cmp -s "$wanted" .venv-ray/.installed; then
    "$bin/python" -m venv --clear .venv-ray
    "$bin/python" -c "$folder" >"$(.venv-ray/bin/python -c "$folder")/project.pth"
    .venv-ray/bin/python -m pip install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" .venv-ray/.installed
  fi
  PYTHONPATH="$PWD/src" .venv-ray/bin/python -W ignore -m pytest -W ignore::DeprecationWarning tests/ray "$@"
}

if [ "${1:-}" = --clients ]; then
  shift
  clients .venv-clients tests/clients/requirements.txt "$@"
  clients .venv-clients-newest tests/clients/requirements-newest.txt "$@"
  exit
fi
if [ "${1:-}" = --ray ]; then
  shift
  on_ray "$@"
  if [ "${RAY_TESTS:-}" != short ]; then
    export RAY_SERVE_ENABLE_HA_PROXY=1 RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S=2 RAY_SERVE_HAPROXY_NBTHREAD=1
    on_ray "$@"
  fi
  exit
fi
if [ "${1:-}" = --reliability ]; then
  shift
  RELIABILITY=full exec "$bin/python" -m pytest tests/reliability tests/api/test_schema.py "$@"
fi
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/shellcheck" ./*.sh .ci/run
"$bin/hadolint" Dockerfile
# run PYTEST_ARGUMENT...: no test among them is no failure.
run() {
  "$bin/python" -m pytest tests/ "$@" || [ $? -eq 5 ]
}
run -m 'not alone' --numprocesses 3 --dist loadfile "$@"
run -m alone "$@"
