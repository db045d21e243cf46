"""Files to score with the fake scorer, for tests; run as a program it scores one, slowly: INPUT OUTPUT SECONDS."""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reranker_serve.api.options import Options
from reranker_serve.backends.fake import FakeBackend, fake_scorer
from reranker_serve.errors import StartupError
from reranker_serve.tools.score.command import Job, check, score_file
from reranker_serve.tools.score.files import source
from reranker_serve.types import EncodedItem, Scorer
from tests.conftest import fake_settings


def score(
    lines: Path, output: Path, scorer: Scorer | None = None, name: str = "score", drop: bool = False, **options: Any
) -> int:
    """As the command does, behind its arguments. A forward pass has 128 tokens, so that a file takes many."""
    job = Job(source(lines, name), output, Options.model_validate(options), drop)
    check(job)
    return score_file(job, scorer or fake_scorer(), fake_settings(batch_size="4", max_length="32"))


def write(path: Path, rows: Sequence[Any]) -> Path:
    """JSON Lines; a string is a line as it is."""
    text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(path: Path) -> list[Any]:
    content = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()]


def main(lines: str, output: str, seconds: str) -> int:
    def wait(items: Sequence[EncodedItem]) -> None:
        time.sleep(float(seconds))

    print("begun", flush=True)
    try:
        return score(Path(lines), Path(output), fake_scorer(FakeBackend(wait)))
    except StartupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
