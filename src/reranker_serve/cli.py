"""The command line: `reranker-serve COMMAND`.

A flag of `serve` is the environment variable of the same name, set for this process and its
workers; flags and variables derive from the same fields of `Settings`.
"""

from __future__ import annotations

import argparse
import getpass
import logging
import os
import secrets
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from reranker_serve import __version__
from reranker_serve.environment import environment_name, load_settings, markdown_table
from reranker_serve.errors import RerankerError, SettingsError
from reranker_serve.keys import HASHED, hash_key
from reranker_serve.ready import local_url
from reranker_serve.settings import Settings
from reranker_serve.telemetry.folder import forget_foreign_folder
from reranker_serve.telemetry.logs import configure_logging

_KEY_BYTES = 32
_SHORT_KEY = 20

logger = logging.getLogger("reranker_serve")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. Errors are one line on standard error."""
    forget_foreign_folder()
    try:
        parsed = _parser().parse_args(arguments)
        status: int = parsed.run(parsed)
    except RerankerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reranker-serve", description="A reranking server.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the server")
    serve.add_argument("--reload", action="store_true", help="restart when the source changes")
    serve.add_argument("--pid-file", type=Path, help=argparse.SUPPRESS)
    _add_settings(serve)
    serve.set_defaults(run=_serve)

    download = commands.add_parser("download", help="fetch a model for offline use")
    download.add_argument("model", help="hub id, such as BAAI/bge-reranker-v2-m3")
    download.add_argument("directory", type=Path, help="the model gets a folder of its own below this one")
    download.add_argument("--revision", help="commit, tag or branch; the newest of main when not given")
    download.set_defaults(run=_download)

    daemon = commands.add_parser("daemon", help="run the server in the background")
    daemon.add_argument("action", choices=["start", "status", "logs", "stop", "restart"])
    daemon.add_argument("--run-dir", type=Path, default=Path(".run"), help="where pid file and log are kept")
    daemon.add_argument("--follow", "-f", action="store_true", help="logs: go on printing what is added")
    _add_settings(daemon)
    daemon.set_defaults(run=_daemon)

    _add_tools(commands)

    hashing = commands.add_parser("hash-key", help="print the hash of a key, read from standard input")
    hashing.set_defaults(run=_hash_key)

    settings = commands.add_parser("settings", help="print the table of settings")
    settings.set_defaults(run=_settings)
    return parser


def _add_tools(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from reranker_serve.tools import calibrate, evaluate, inspection, usage, verify
    from reranker_serve.tools.bench import command as bench
    from reranker_serve.tools.compare import command as compare
    from reranker_serve.tools.score import command as score

    for name, tool, purpose in (
        ("score", score, "score a file of pairs, of any size, without a server"),
        ("evaluate", evaluate, "measure ranking quality on a judged collection"),
        ("compare", compare, "tell which of several models or servers ranks better on judged queries, and how fast"),
        ("calibrate", calibrate, "find what a score means on judged queries, and the threshold to ask with"),
        ("verify", verify, "compare the model's scores with the published ones"),
        ("inspect", inspection, "tell what a model is and how it would be served, without loading its weights"),
        ("usage", usage, "tell who had how much by day, key and model, from the file that a server writes"),
    ):
        command = commands.add_parser(name, help=purpose)
        _add_settings(command)
        tool.add_arguments(command)
        command.set_defaults(run=partial(_tool, tool.run))

    load = commands.add_parser("bench", help="measure a running rerank server under load")
    bench.add_arguments(load)
    load.set_defaults(run=bench.run)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--demo", action="store_true", help="serve the small demo model")
    group = parser.add_argument_group("settings", "each overrides the environment variable of its name")
    for name, field in Settings.model_fields.items():
        help_text = f"{field.description} ({environment_name(name)})".replace("%", "%%")
        group.add_argument(f"--{name.replace('_', '-')}", dest=f"setting_{name}", metavar="VALUE", help=help_text)


def _read_settings(parsed: argparse.Namespace) -> Settings:
    for name in Settings.model_fields:
        value = getattr(parsed, f"setting_{name}")
        if value is not None:
            os.environ[environment_name(name)] = value
    if parsed.demo:
        from reranker_serve.demo import MODEL_NAME, demo_folder

        os.environ[environment_name("model_path")] = str(demo_folder())
        os.environ[environment_name("model_name")] = MODEL_NAME
    settings, warnings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    for warning in warnings:
        logger.warning("%s", warning)
    return settings


def _serve(parsed: argparse.Namespace) -> int:
    settings = _read_settings(parsed)
    from reranker_serve.daemon import hold_pid_file
    from reranker_serve.server import serve

    pid_file = hold_pid_file(parsed.pid_file) if parsed.pid_file else None
    _print_welcome(settings)
    try:
        return serve(settings, parsed.reload)
    finally:
        if pid_file is not None:
            pid_file.close()


def _print_welcome(settings: Settings) -> None:
    url = local_url(settings)
    # Of a certificate curl trusts the names it is made out to, and this address is none of them.
    curl = "curl -sk" if settings.tls_certfile else "curl -s"
    key = ' -H "Authorization: Bearer YOUR_KEY"' if settings.needs_key else ""
    body = (
        '{"query": "How do plants make food?", "documents": ["The stock market fell on Monday.",'
        ' "Photosynthesis turns sunlight into sugar."]}'
    )
    page = f"  page  {url}/   (open it in a browser)\n" if settings.enable_page else ""
    docs = f"  docs  {url}/docs\n" if settings.enable_docs else ""
    print(
        f"reranker-serve {__version__}, loading {settings.served_name}\n"
        f"  API   {url}/rerank   (Cohere: /v1/rerank, /v2/rerank; Jina: /api/v1/rerank)\n"
        f"{page}{docs}"
        f"  try   {curl} {url}/rerank{key} -H 'Content-Type: application/json' -d {shlex.quote(body)}",
        flush=True,
    )


def _download(parsed: argparse.Namespace) -> int:
    from reranker_serve.model_files.find import download

    files = download(parsed.model, parsed.directory, parsed.revision)
    folder = shlex.quote(str(files.folder))
    print(f"{parsed.model} is in {files.folder}, revision {files.revision}")
    print(f"serve it with RERANKER_MODEL_PATH={folder} ./run.sh")
    return 0


def _daemon(parsed: argparse.Namespace) -> int:
    from reranker_serve.daemon import Daemon

    settings = _read_settings(parsed)
    daemon = Daemon(parsed.run_dir, settings)
    # The settings given as flags are in the environment by now, and so reach the server.
    if parsed.action == "start":
        return daemon.start([])
    if parsed.action == "restart":
        return daemon.stop() or daemon.start([])
    if parsed.action == "stop":
        return daemon.stop()
    return daemon.status() if parsed.action == "status" else daemon.logs(parsed.follow)


def _tool(run: Callable[[argparse.Namespace, Settings], int], parsed: argparse.Namespace) -> int:
    return run(parsed, _read_settings(parsed))


def _hash_key(_: argparse.Namespace) -> int:
    if sys.stdin.isatty():
        key = getpass.getpass("key (empty: make a random one): ").strip()
        if not key:
            key = secrets.token_urlsafe(_KEY_BYTES)
            print(f"the key, shown only now: {key}", file=sys.stderr)
    else:
        key = sys.stdin.readline().strip()
    if not key or any(blank.isspace() for blank in key) or "," in key or key.startswith(HASHED):
        raise SettingsError("give one key, without blanks and commas, on standard input")
    if len(key) < _SHORT_KEY:
        print(f"warning: a key of fewer than {_SHORT_KEY} characters can be guessed from its hash", file=sys.stderr)
    print(hash_key(key))
    return 0


def _settings(_: argparse.Namespace) -> int:
    print(markdown_table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
