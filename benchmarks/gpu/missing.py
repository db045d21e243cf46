"""Unpack those wheels of a folder that this interpreter needs for the server and does not have.

`python -m benchmarks.gpu.missing WHEELS SITE`: nothing is installed, SITE goes onto PYTHONPATH. Needs `packaging`,
which comes with transformers.
"""

from __future__ import annotations

import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

_PROJECT = Path(__file__).parents[2] / "pyproject.toml"
_ALSO = ("httpx",)  # which asks the server


def main() -> None:
    folder, site = Path(sys.argv[1]), Path(sys.argv[2])
    roots = [*tomllib.loads(_PROJECT.read_text())["project"]["dependencies"], *_ALSO]
    needed, absent = missing(map(Requirement, roots), {_name(path): path for path in folder.glob("*.whl")})
    for path in needed:
        print(f"unpacking {path.name}")
        with zipfile.ZipFile(path) as wheel:
            wheel.extractall(site)
    if absent:
        print("missing here and among the wheels:", ", ".join(map(str, absent)))


def missing(roots: Iterable[Requirement], wheels: dict[str, Path]) -> tuple[list[Path], list[Requirement]]:
    """The wheels that meet what is not met here, and what none of them meets."""
    pending, needed, absent = list(roots), dict[str, Path](), list[Requirement]()
    seen = set[str]()
    while pending:
        wanted = pending.pop()
        name = canonicalize_name(wanted.name)
        if str(wanted) in seen or name in needed:
            continue
        seen.add(str(wanted))
        if _met(wanted):
            # What it needs itself was looked after by whoever installed it; but not for the extras.
            if wanted.extras:
                pending += _of(distribution(wanted.name).requires or (), wanted.extras, only_extras=True)
        elif name in wheels:
            needed[name] = wheels[name]
            pending += _of(_requires(wheels[name]), wanted.extras)
        else:
            absent.append(wanted)
    return list(needed.values()), absent


def _met(wanted: Requirement) -> bool:
    try:
        return wanted.specifier.contains(distribution(wanted.name).version, prereleases=True)
    except PackageNotFoundError:
        return False


def _of(lines: Iterable[str], extras: Iterable[str], only_extras: bool = False) -> Iterator[Requirement]:
    """The requirements among these that apply here, with these extras."""
    for found in map(Requirement, lines):
        marker = found.marker
        if marker is None or marker.evaluate({"extra": ""}):
            applies = not only_extras
        else:
            applies = any(marker.evaluate({"extra": extra}) for extra in extras)
        if applies:
            yield found


def _requires(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as files:
        (metadata,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(files.read(metadata).decode()).get_all("Requires-Dist") or []


def _name(wheel: Path) -> str:
    return canonicalize_name(parse_wheel_filename(wheel.name)[0])


if __name__ == "__main__":
    main()
