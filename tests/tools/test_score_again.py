"""A file whose scoring was stopped, at any moment: the same command goes on, and no line is lost or doubled."""

from __future__ import annotations

import fcntl
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

from reranker_serve.api.options import Options
from reranker_serve.backends.fake import FakeBackend, fake_scorer
from reranker_serve.errors import StartupError
from reranker_serve.tools.score.command import Job, check, score_file
from reranker_serve.tools.score.files import source
from reranker_serve.tools.score.journal import Journal
from reranker_serve.tools.score.rows import Row
from reranker_serve.types import EncodedItem
from tests.conftest import fake_settings
from tests.tools.scoring import read, score, write

ROOT = Path(__file__).parents[2]


def rows(count: int) -> list[dict[str, object]]:
    """A wrong line in a hundred, and lists among the pairs."""
    made: list[dict[str, object]] = []
    for number in range(count):
        texts = {"documents": [f"blue {number}", f"fox {number}"]} if number % 7 == 0 else {"document": f"fox {number}"}
        made.append({"id": number, "query": "" if number % 100 == 99 else "blue fox", **texts})
    return made


def killed(pairs: Path, output: Path, after: float) -> bool:
    """Runs it for so many seconds; False if it was done before."""
    program = [sys.executable, "-m", "tests.tools.scoring", str(pairs), str(output), "0.001"]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"begun\n"
        try:
            output_of_it = process.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return True
    assert process.returncode == 3, output_of_it
    return False


def test_killed_at_any_moment_it_loses_and_doubles_no_line(tmp_path: Path) -> None:
    whole, output = tmp_path / "whole.jsonl.gz", tmp_path / "scores.jsonl.gz"
    pairs = write(tmp_path / "pairs.jsonl.gz", rows(6000))
    assert score(pairs, whole) == 3
    chance, kills = random.Random(7), 0
    # Ever more time, as the last part is done anew after each kill.
    while killed(pairs, output, chance.uniform(0, 0.05 * (1 + kills))):
        kills += 1
        if output.exists() and not list(tmp_path.glob("*.part")):
            break  # it was done, and not yet over
    assert kills > 3
    assert read(output) == read(whole)
    assert sorted(tmp_path.iterdir()) == sorted([pairs, whole, output])


def test_interrupted_it_ends_with_the_pass_and_tells_that_it_goes_on(tmp_path: Path) -> None:
    """Not with all that is on its way, which takes 16 s here."""
    pairs, output = write(tmp_path / "pairs.jsonl", rows(3000)), tmp_path / "scores.jsonl"
    program = [sys.executable, "-m", "tests.tools.scoring", str(pairs), str(output), "0.5"]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=8)
    assert process.returncode == 130
    assert told.splitlines()[-1] == f"stopped: {output}.part has what is scored, and the same command goes on"


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """Files all of whose lines are scored, and not written: what they are to be written to cannot be."""
    unwritable = tmp_path / "scores.jsonl.tmp"
    unwritable.mkdir()
    with pytest.raises(StartupError, match=r"scores\.jsonl cannot be written: Is a directory"):
        score(write(tmp_path / "pairs.jsonl", rows(150)), tmp_path / "scores.jsonl")
    unwritable.rmdir()
    return tmp_path


def test_a_journal_cut_anywhere_gives_the_same_file_and_computes_only_what_is_lost(begun: Path) -> None:
    """As every kill leaves what was written up to some byte."""
    pairs, output, journal = (begun / name for name in ("pairs.jsonl", "scores.jsonl", "scores.jsonl.part"))
    content = journal.read_bytes()
    header = content.index(b"\n") + 1
    expected = None
    for end in [*range(0, len(content), 97), header - 1, header, header + 1, len(content) - 1, len(content)]:
        journal.write_bytes(content[:end])
        backend = FakeBackend()
        assert score(pairs, output, fake_scorer(backend)) == 3
        lines = read(output)
        assert lines == (expected := expected or lines)
        lost = content.count(b"\n", header) - content.count(b"\n", header, end)
        assert lost <= backend.computed <= 2 * lost
        output.unlink()


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.jsonl.tmp"])
def test_what_a_kill_while_writing_left_is_written_anew(name: str, begun: Path) -> None:
    (begun / name).write_text("half a li")
    backend = FakeBackend()
    assert score(begun / "pairs.jsonl", begun / "scores.jsonl", fake_scorer(backend)) == 3
    assert [line["id"] for line in read(begun / "scores.jsonl")] == list(range(150))
    assert backend.computed == 0
    assert sorted(path.name for path in begun.iterdir()) == ["pairs.jsonl", "scores.jsonl"]


# --- when it is not the same command ---


def test_lines_that_were_added_are_scored_too(begun: Path) -> None:
    write(begun / "pairs.jsonl", rows(200))
    assert score(begun / "pairs.jsonl", begun / "scores.jsonl") == 3
    assert [line["id"] for line in read(begun / "scores.jsonl")] == list(range(200))


def test_scores_never_get_to_another_line(begun: Path) -> None:
    changed = rows(150)
    changed[40]["document"] = "another"
    write(begun / "pairs.jsonl", changed)
    with pytest.raises(StartupError, match=r"line 41 is not what it was when it was scored: remove .*jsonl\.part"):
        score(begun / "pairs.jsonl", begun / "scores.jsonl")
    write(begun / "pairs.jsonl", rows(100))
    with pytest.raises(StartupError, match="a line at the end is not what it was"):
        score(begun / "pairs.jsonl", begun / "scores.jsonl")


def test_no_text_moves_to_another_place_of_its_line_unseen() -> None:
    places = [("a", ("bc",)), ("ab", ("c",)), ("a", ("b", "c")), ("a", ("b", "", "c")), ("abc", ())]
    assert len({Row(1, query, texts).checksum for query, texts in places}) == len(places)
    assert Row(1, "a").checksum != Row(1, problem="a").checksum


def test_lines_that_went_while_others_were_scored_are_missed(begun: Path) -> None:
    def cut(items: Sequence[EncodedItem]) -> None:
        write(begun / "pairs.jsonl", rows(100))

    (begun / "scores.jsonl.part").unlink()
    with pytest.raises(StartupError, match="a line at the end is not what it was"):
        score(begun / "pairs.jsonl", begun / "scores.jsonl", fake_scorer(FakeBackend(cut)))
    assert [path.name for path in begun.glob("scores*")] == ["scores.jsonl.part"]


def test_a_journal_that_was_damaged_or_removed_is_one_line(begun: Path) -> None:
    journal = begun / "scores.jsonl.part"
    content = journal.read_bytes()
    for damage in (b"\0\0\0\n", b"7\n", b"[]\n"):  # as a loss of power may leave it
        journal.write_bytes(content + damage)
        with pytest.raises(
            StartupError, match=r"scores\.jsonl\.part line \d+ is damaged: remove the file to begin anew"
        ):
            score(begun / "pairs.jsonl", begun / "scores.jsonl")
    journal.write_bytes(content[:-100])
    with pytest.raises(StartupError, match=r"scores\.jsonl\.part cannot be read: No such file"):
        score(begun / "pairs.jsonl", begun / "scores.jsonl", fake_scorer(FakeBackend(lambda _: journal.unlink(True))))


def test_what_another_process_completed_while_the_model_was_loaded_stays(begun: Path) -> None:
    pairs, output = begun / "pairs.jsonl", begun / "scores.jsonl"
    job = Job(source(pairs, "score"), output, Options())
    check(job)
    score(pairs, output)
    content = output.read_bytes()
    with pytest.raises(StartupError, match=r"scores\.jsonl is there already"):
        score_file(job, fake_scorer(), fake_settings())
    assert output.read_bytes() == content
    assert not job.journal.exists()


def test_a_journal_that_its_owner_removed_meanwhile_is_begun_anew(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lock = begun / "other.part", fcntl.flock

    def late(file: IO[bytes], how: int) -> None:
        if not path.with_suffix(".gone").exists():
            path.rename(path.with_suffix(".gone"))
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with Journal(path, {}) as journal:
        journal.add([Row(1, "a", ("b",))], [(0.5,)])
        assert [outcome for _, outcome in journal.outcomes()] == [(0.5,)]


def test_it_does_not_go_on_with_other_options(begun: Path) -> None:
    with pytest.raises(StartupError, match=r'was begun with options \{\}, and now it is \{"raw_scores": true\}: go on'):
        score(begun / "pairs.jsonl", begun / "scores.jsonl", raw_scores=True)
    (begun / "scores.jsonl.part").write_text("mine\n")
    with pytest.raises(StartupError, match="was not begun by this version"):
        score(begun / "pairs.jsonl", begun / "scores.jsonl")


def test_two_processes_do_not_score_into_one_file(begun: Path) -> None:
    path = begun / "other.part"
    with Journal(path, {}) as journal:
        journal.add([Row(1, "a", ("b",))], [(0.5,)])
        with pytest.raises(StartupError, match="another process is scoring into"):
            Journal(path, {})
        assert [outcome for _, outcome in journal.outcomes()] == [(0.5,)]
    with Journal(path, {}) as journal:
        assert [outcome for _, outcome in journal.outcomes()] == [(0.5,)]


def test_a_full_disk_is_one_line_and_costs_nothing(tmp_path: Path) -> None:
    """A file that may not grow fails alike."""
    pairs, output = write(tmp_path / "pairs.jsonl", rows(2000)), tmp_path / "scores.jsonl"
    program = [sys.executable, "-m", "tests.tools.scoring", str(pairs), str(output), "0"]
    bounded = ["bash", "-c", 'ulimit -f 16; exec "$@"', "bash", *program]
    done = subprocess.run(bounded, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: {output}.part cannot be written: File too large"
    assert score(pairs, output) == 3
    assert [line["id"] for line in read(output)] == list(range(2000))
