"""API keys: how they are written down, hashed, compared, and read again when their file changes.

A key is kept as its SHA-256 only. Keys are random and long, unlike passwords, so that nobody can try all of them
and no slow hash is needed; a slow one would cost milliseconds on each request.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reranker_serve.errors import SettingsError
from reranker_serve.rates import Rates

logger = logging.getLogger(__name__)

HASHED = "sha256:"

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
# Name, key, limits.
_LINE = re.compile(r"(?:([^\s:]*):\s+)?(\S+)(?:\s+(.+))?")
_RECHECK_S = 1.0
_SHOWN_DIGITS = 8

# What tells a file from what was there before: modification, place, size.
_Stamp = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Key:
    """An accepted key: the SHA-256 of its bytes, the name it has in the log, and what it may have, if a file tells.

    Keys of one name have the same `rates`, and share them.
    """

    digest: bytes
    name: str | None = None
    rates: Rates | None = None

    @property
    def label(self) -> str:
        """What to show of it: the name, else the beginning of its hash, as `hash_key` writes it."""
        return self.name or HASHED + self.digest.hex()[:_SHOWN_DIGITS]


def hash_key(key: str) -> str:
    """The form in which a key may be written down without giving it away: `sha256:` and 64 hex digits."""
    return HASHED + hashlib.sha256(key.encode()).hexdigest()


def parse_key(text: str, name: str | None = None) -> Key:
    """A key as such, or hashed. Raises `ValueError`, whose message does not hold the key."""
    if not text.startswith(HASHED):
        return Key(hashlib.sha256(text.encode()).digest(), name)
    digits = text.removeprefix(HASHED)
    if not _HEX.fullmatch(digits):
        raise ValueError("should have 64 hex digits after 'sha256:', as `reranker-serve hash-key` prints them")
    return Key(bytes.fromhex(digits), name)


def parse_list(text: str) -> tuple[Key, ...]:
    """Keys separated by commas. Raises `ValueError` if one is malformed or there is none."""
    keys = tuple(parse_key(part.strip()) for part in text.split(",") if part.strip())
    if not keys:
        raise ValueError("should hold at least one key; unset it to serve without keys")
    return keys


def parse_file(text: str) -> tuple[Key, ...]:
    """One key a line, after its name if it has one, and before its limits if it has its own; `#` begins a comment line.

    Raises `ValueError`, which names the line.
    """
    keys: dict[bytes, Key] = {}
    shared: dict[str, Rates | None] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            key = _parse_line(line)
            if key.digest in keys:
                raise ValueError("the same key stands on a line above")
            if key.name is not None and shared.setdefault(key.name, key.rates) != key.rates:
                raise ValueError(f"keys of one name share their limits: write the same behind each key of {key.name}")
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        keys[key.digest] = key
    if not keys:  # never open to all because somebody emptied a file
        raise ValueError("it holds no key")
    return tuple(keys.values())


def _parse_line(line: str) -> Key:
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError("should be 'name: key', or a key")
    name, text, limits = found.groups()
    if name is not None and (not _NAME.fullmatch(name) or name == "sha256"):
        raise ValueError("a name has 1 to 64 letters, digits or . _ @ - and is not 'sha256'")
    if name is None and ":" in text and not text.startswith(HASHED):
        raise ValueError("put a blank after the name's colon: 'name: key'")
    return replace(parse_key(text, name), rates=None if limits is None else _parse_limits(limits))


def _parse_limits(text: str) -> Rates:
    try:
        return Rates.parse(text)
    except ValueError as error:
        raise ValueError(f"should be 'name: key', or a key; what stands behind a key {error}") from None


class KeyFile:
    """The keys of a file, which is read again when it changed: looked at once a second at most, when asked.

    Raises `SettingsError` at first if it cannot be read; later the last good keys stay, with one warning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._checked = time.monotonic()
        self._stamp: _Stamp | None = None
        try:
            self._keys, self._stamp = self._read()
        except (OSError, ValueError) as error:
            raise SettingsError(f"RERANKER_API_KEY_FILE={path} cannot be used: {_reason(error)}") from None

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys that hold now."""
        now = time.monotonic()
        if now - self._checked >= _RECHECK_S:
            self._checked = now
            self._look()
        return self._keys

    def _look(self) -> None:
        stamp = self._stamp
        try:
            self._stamp = _stamp(self._path.stat())
            if self._stamp == stamp:
                return
            self._keys, self._stamp = self._read()
            logger.info("%s changed: %d key(s) hold now", self._path, len(self._keys))
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                self._stamp = None
            if self._stamp != stamp:
                logger.warning("%s cannot be used, the keys from before still hold: %s", self._path, _reason(error))

    def _read(self) -> tuple[tuple[Key, ...], _Stamp]:
        with self._path.open("rb") as file:
            stamp = _stamp(os.fstat(file.fileno()))
            return parse_file(file.read().decode("utf-8-sig")), stamp


class Keys:
    """All keys that are accepted: those of the settings, and those of a file."""

    def __init__(self, fixed: Sequence[Key], file: KeyFile | None = None) -> None:
        self._fixed = tuple(fixed)
        self._file = file

    @property
    def needed(self) -> bool:
        """False if the server is open to all."""
        return bool(self._fixed) or self._file is not None

    def find(self, presented: Iterable[bytes]) -> Key | None:
        """The accepted key among `presented`, or None.

        Every pair of hashes is compared, each in constant time: how long it takes tells nothing about which key
        came close, and what is compared cannot be chosen byte by byte.
        """
        accepted = (*self._file.keys, *self._fixed) if self._file else self._fixed
        digests = [hashlib.sha256(key).digest() for key in presented]
        matches = [key for digest in digests for key in accepted if hmac.compare_digest(digest, key.digest)]
        return matches[0] if matches else None


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_mtime_ns, status.st_ino, status.st_dev, status.st_size


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
