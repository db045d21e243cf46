from __future__ import annotations

import hashlib
import logging
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from reranker_serve import keys as module
from reranker_serve.errors import SettingsError
from reranker_serve.keys import Key, KeyFile, Keys, hash_key, parse_file, parse_key, parse_list
from reranker_serve.rates import Rates
from tests.server.processes import CLI, environment

HASH = hash_key("s3cret")


def test_a_key_and_its_hash_are_the_same_key() -> None:
    assert "sha256:" + hashlib.sha256(b"s3cret").hexdigest() == HASH
    assert parse_key(HASH) == parse_key("s3cret") == parse_key("sha256:" + HASH[7:].upper())
    assert parse_list(f"one, {HASH},") == (parse_key("one"), parse_key("s3cret"))
    accepted = Keys(parse_list(HASH))
    assert accepted.find([b"wrong", b"s3cret"]) == parse_key("s3cret")
    # Who has read the hash has no key.
    assert accepted.find([HASH.encode(), HASH[7:].encode(), bytes.fromhex(HASH[7:])]) is None


def test_a_file_has_bare_and_named_keys_hashed_or_not() -> None:
    text = f"\ufeff# teams\n\nbare\nteam-a: sk:one\r\n  b@c.d:\t{HASH}\n# end".removeprefix("\ufeff")
    assert parse_file(text) == (
        parse_key("bare"),
        parse_key("sk:one", "team-a"),
        Key(hashlib.sha256(b"s3cret").digest(), "b@c.d"),
    )


def test_a_key_may_have_limits_of_its_own_behind_it() -> None:
    lines = "bare 5 requests", "team-a: one\t600 requests, 2000000 tokens a day", f"team-b: {HASH}"
    text = "\n".join([*lines, f"{hash_key('x')} 1 token a day"])
    bare, team, other, hashed = parse_file(text)
    assert bare.rates == Rates.parse("5 requests")
    assert (team.name, team.rates) == ("team-a", Rates.parse("600 requests a minute, 2000000 tokens a day"))
    assert other.rates is None
    assert hashed == replace(parse_key("x"), rates=Rates.parse("1 token a day"))


def test_keys_of_one_name_have_one_budget() -> None:
    same = parse_file("a: one 5 requests, 9 tokens\na: two 9 tokens a minute,  5 requests")
    assert same[0].rates == same[1].rates
    for second in ("a: two", "a: two 6 requests"):
        with pytest.raises(ValueError, match=r"line 3: keys of one name share their limits: .* each key of a"):
            parse_file(f"a: one 5 requests\nb: other 7 requests\n{second}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key"),
        ("team: s3cret 5 requests an hour", "line 1: should be 'name: key'"),
        ("s3cret 5 requests a day, 6 requests a day", "none of them twice"),
        ("# only this\n", "holds no key"),
        ("good\ntwo s3cret\n", "line 2: should be 'name: key'"),
        ("team: s3cret # note", "line 1: should be 'name: key'"),
        ("team:s3cret", "line 1: put a blank"),
        (f"sha256: {HASH[7:]}", "line 1: a name has"),
        ("a/b: s3cret", "line 1: a name has"),
        (": s3cret", "line 1: a name has"),
        ("team: sha256:s3cret", "line 1: should have 64 hex digits"),
        (f"one: s3cret\ntwo: {HASH}", "line 2: the same key"),
    ],
)
def test_a_malformed_file_is_one_line_without_the_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        KeyFile(path)
    line = str(caught.value)
    assert line.startswith(f"RERANKER_API_KEY_FILE={path} cannot be used: ")
    assert said in line
    assert "\n" not in line
    assert "s3cret" not in line
    assert HASH[7:] not in line


@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_a_file_that_cannot_be_read_is_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    if kind == "folder":
        path.mkdir()
    if kind == "binary":
        path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot be used: "):
        KeyFile(path)


def test_a_changed_file_is_read_again_and_a_broken_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "_RECHECK_S", 0.0)
    path = tmp_path / "keys"
    path.write_text("one\n")
    file = KeyFile(path)

    def now(text: str) -> tuple[Key, ...]:
        new = tmp_path / "new"
        new.write_text(text)
        os.replace(new, path)
        return file.keys

    assert file.keys == parse_list("one")
    assert caplog.messages == []
    assert now("two\n") == parse_list("two")
    assert caplog.messages == [f"{path} changed: 1 key(s) hold now"]
    caplog.clear()
    for _ in range(3):
        assert now("") == file.keys == file.keys == parse_list("two")
    assert len(caplog.messages) == 3  # one for each new broken file, not for each look
    caplog.clear()
    path.unlink()
    assert file.keys == file.keys == parse_list("two")
    (warning,) = caplog.records
    assert (warning.levelname, "still hold" in warning.getMessage()) == ("WARNING", True)
    assert now("three\n") == parse_list("three")


def test_the_file_is_looked_at_once_a_second_at_most(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("one\n")
    file = KeyFile(path)
    path.write_text("another\n")
    assert file.keys == parse_list("one")


def hash_command(given: str) -> subprocess.CompletedProcess[str]:
    command = [*CLI, "hash-key"]
    return subprocess.run(command, input=given, env=environment(), capture_output=True, text=True, check=False)


def test_the_command_prints_the_hash_of_what_it_reads() -> None:
    done = hash_command("a-key-that-is-long-enough\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, hash_key("a-key-that-is-long-enough") + "\n", "")
    assert "can be guessed" in hash_command("short\n").stderr
    for wrong in ("", "\n", "two words\n", "one,two\n", f"{HASH}\n"):
        refused = hash_command(wrong)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("error: give one key")
