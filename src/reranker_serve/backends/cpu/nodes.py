"""Which cores are near which memory, and how lanes divide them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

Cores = frozenset[int]


def own_cores() -> Cores:
    """The cores this thread may run on; none where the system does not tell."""
    affinity = getattr(os, "sched_getaffinity", None)
    return frozenset(affinity(0)) if affinity else frozenset()


def pin(cores: Cores | None) -> None:
    """Let this thread, and those that it starts, run on these cores only, if the system allows; None: as before."""
    if cores:
        with suppress(OSError):  # they were taken from this process meanwhile: it is slower without, not wrong
            os.sched_setaffinity(0, cores)


def by_node(own: Cores, nodes: Path = Path("/sys/devices/system/node")) -> list[Cores]:
    """These cores by the NUMA node they belong to; all together where the system tells of no nodes."""
    folders = sorted(nodes.glob("node[0-9]*"), key=lambda folder: int(folder.name.removeprefix("node")))
    found = [own.intersection(_listed(folder / "cpulist")) for folder in folders]
    return [cores for cores in found if cores] if own and frozenset().union(*found) == own else [own]


def divide(by_node: Sequence[Cores], lanes: int) -> list[Cores | None]:
    """The cores of each lane: a node's, which lanes share if there are more of them; those of several nodes, if there
    are fewer; None: any, where there is one node.

    Less than a node is no lane's own: it would be held up by what else runs there, beside a core that is as near.
    """
    nodes = len(by_node)
    if nodes == 1:
        return [None] * lanes
    if lanes >= nodes:
        return [by_node[lane * nodes // lanes] for lane in range(lanes)]
    edges = [lane * nodes // lanes for lane in range(lanes + 1)]
    return [frozenset().union(*by_node[start:stop]) for start, stop in pairwise(edges)]


def _listed(path: Path) -> Iterator[int]:
    """The numbers of a list like `0-3,8`."""
    try:
        parts = path.read_text().strip().split(",")
    except OSError:  # not there
        return
    for part in filter(None, parts):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
