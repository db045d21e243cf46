"""A contestant in a process of its own, in its own environment: one JSON line in, one out.

`python -m benchmarks.worker NAME FOLDER KIND THREADS MAX_LENGTH`. Lines: {"do": "prepare"},
{"do": "tune" or "score", "requests": [[query, [document, ...]], ...]}. The answer has
"seconds" and "answer", or "error" in one line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from benchmarks.contestants import Contestant, build
from benchmarks.pairs import Request


def main() -> None:
    # Libraries print what they like: standard output is for answers only.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, folder, kind, threads, max_length = sys.argv[1:]
    contestant: Contestant | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if contestant is None:
                contestant = build(name, Path(folder), kind, int(threads), int(max_length))
            start = time.perf_counter()
            answer = _do(contestant, asked)
            _say(answers, {"seconds": time.perf_counter() - start, "answer": answer})
        except Exception as error:  # whatever keeps a peer from taking part is told, not hidden
            reason = " ".join(str(error).split())[:300]
            _say(answers, {"error": f"{type(error).__name__}: {reason}"})


def _do(contestant: Contestant, asked: dict[str, Any]) -> Any:
    if asked["do"] == "prepare":
        return contestant.prepare()
    requests = [Request(query, tuple(documents)) for query, documents in asked["requests"]]
    return contestant.tune(requests) if asked["do"] == "tune" else contestant.score(requests)


def _say(answers: TextIO, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
