#!/usr/bin/env bash
# Runs the server in the background: ./daemon.sh start|status|logs|stop|restart
# Pid file and log are in .run; `start` takes the arguments of ./run.sh, such as --demo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
if [ $# -lt 1 ]; then
  echo "usage: ./daemon.sh start|status|logs|stop|restart" >&2
  exit 2
fi
case " $* " in
  *" --demo "*) ./setup.sh --demo ;;
  *) ./setup.sh ;;
esac
exec .venv/bin/python -m reranker_serve daemon "$@"
