"""What the Helm chart's autoscaling is worth: its triggers under the rules of Kubernetes, on a virtual clock.

    python -m benchmarks.helm_scaling [--hours 4] [--seed 1] [--json FILE]

A pod does one second of computing a second, and refuses when 30 seconds wait. Requests come at random (Poisson), for
three to twelve pods' worth of computing, over one period of a sine; in a second run, a quarter of an hour on the way up
has three times as much at once. They go to a pod by chance, as through a Service, or to the better one of two, as
through a proxy that counts. Every 15 seconds the gauge is scraped and the autoscaler decides, as its documentation
says: the most that any trigger asks for, within a tenth of the target nothing, at most doubled in the time a pod takes
to start, down to the most that was asked for in five minutes. What is left out: how long a scrape, KEDA and the
scheduler take, nodes that come late, pods of different speed, drains (a pod that goes takes what waits with it), and
callers who come again when refused.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

CHART = Path(__file__).parents[1] / "deploy" / "helm"
SYNC_S, TOLERANCE, STABILIZED_S = 15.0, 0.1, 300.0
MAX_QUEUE_S = 30.0
PEAK, LOWEST, SURGE, SURGE_S = 12.0, 0.25, 3.0, 900.0
BUSY_S, WAITING_S = 180.0, 60.0  # over which the queries take the mean

Sizes = Callable[[random.Random], float]


def lognormal(mean: float, sigma: float) -> Sizes:
    """Seconds of computing that a request takes."""
    return lambda dice: dice.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)


def mixed(dice: random.Random) -> float:
    """One request in a hundred takes eleven seconds, as a thousand documents do on two cores."""
    return 11.0 if dice.random() < 0.01 else lognormal(0.3, 1.0)(dice)


SIZES: dict[str, tuple[float, Sizes]] = {
    "0.04 s": (0.04, lognormal(0.04, 0.5)),
    "0.4 s, some ten times as long": (0.4, lognormal(0.4, 1.2)),
    "0.3 s, and one in a hundred 11 s": (0.99 * 0.3 + 0.11, mixed),
}


@dataclass(frozen=True)
class Rule:
    """Triggers: how large a share of a pod is busy, and how many seconds wait there; 0: there is no such trigger."""

    busy: float
    waiting: float
    start_seconds: float = 120.0
    least: int = 2
    most: int = 60


def of_the_chart() -> Rule:
    """The chart's defaults, but for how many pods there may be."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())["autoscaling"]
    return Rule(values["targetBusy"], values["targetWaitingSeconds"], values["startSeconds"])


@dataclass
class Pod:
    """`waiting` seconds of computing as of the time `at`."""

    waiting: float
    at: float

    def waits(self, now: float) -> float:
        return max(0.0, self.waiting - (now - self.at))

    def add(self, seconds: float, now: float) -> None:
        self.waiting, self.at = self.waits(now) + seconds, now


@dataclass
class Cluster:
    """Pods, those that start, and the autoscaler."""

    rule: Rule
    pods: list[Pod] = field(default_factory=list)
    starting: list[float] = field(default_factory=list)  # when each will be ready
    scraped: deque[tuple[float, int, float]] = field(default_factory=deque)  # time, busy pods, seconds that wait
    wanted: deque[tuple[float, int]] = field(default_factory=deque)
    changes: list[tuple[float, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.pods) + len(self.starting)

    def sync(self, now: float) -> None:
        """What happens every 15 seconds."""
        self.pods += [Pod(0.0, ready) for ready in self.starting if ready <= now]
        self.starting = [ready for ready in self.starting if ready > now]
        waits = [pod.waits(now) for pod in self.pods]
        self.scraped.append((now, sum(seconds > 0 for seconds in waits), sum(waits)))
        while self.scraped[0][0] <= now - BUSY_S:
            self.scraped.popleft()
        self._resize(self._limited(self._asked(now), now), now)

    def _asked(self, now: float) -> int:
        def mean(seconds: float, column: int) -> float:
            values = [row[column] for row in self.scraped if row[0] > now - seconds]
            return sum(values) / len(values)

        targets = ((self.rule.busy, mean(BUSY_S, 1)), (self.rule.waiting, mean(WAITING_S, 2)))
        asked = [self._by(total, target) for target, total in targets if target]
        return min(max(self.rule.least, *asked), self.rule.most)

    def _by(self, total: float, target: float) -> int:
        if abs(total / (target * self.size) - 1) <= TOLERANCE:
            return self.size
        return math.ceil(total / target)

    def _limited(self, asked: int, now: float) -> int:
        self.wanted.append((now, asked))
        while self.wanted[0][0] <= now - STABILIZED_S:
            self.wanted.popleft()
        if asked < self.size:
            return min(self.size, max(wanted for _, wanted in self.wanted))
        added = sum(count for when, count in self.changes if count > 0 and when > now - self.rule.start_seconds)
        return max(self.size, min(asked, 2 * (self.size - added)))

    def _resize(self, size: int, now: float) -> None:
        if size == self.size:
            return
        self.changes.append((now, size - self.size))
        self.starting += [now + self.rule.start_seconds] * (size - self.size)
        for _ in range(self.size - size):
            (self.starting or self.pods).pop()


@dataclass(frozen=True)
class Outcome:
    """`p50` and `p99` of the seconds for which admitted requests waited; `pods` and `needed` are means."""

    p50: float
    p99: float
    refused: float
    pods: float
    needed: float
    resized: int


def load(now: float, period: float, surge: float = 1.0) -> float:
    """Pods' worth of computing that comes in a second; for a quarter of an hour `surge` times as much."""
    wave = LOWEST + (1 - LOWEST) * (1 - math.cos(2 * math.pi * now / period)) / 2
    return PEAK * wave * (surge if period / 4 <= now < period / 4 + SURGE_S else 1.0)


def arrivals(dice: random.Random, period: float, mean: float, surge: float) -> Iterator[float]:
    """Times of requests of so many seconds each."""
    now, most = 0.0, PEAK * surge / mean
    while (now := now + dice.expovariate(most)) < period:
        if dice.random() * most < load(now, period, surge) / mean:
            yield now


def simulate(rule: Rule, size: str, choices: int, surge: float = 1.0, hours: float = 4.0, seed: int = 1) -> Outcome:
    """One period; a request goes to the best of so many pods that are drawn."""
    dice, period = random.Random(seed), hours * 3600
    mean, seconds = SIZES[size]
    cluster = Cluster(rule, [Pod(0.0, 0.0) for _ in range(math.ceil(load(0, period) / (rule.busy or 0.7)))])
    waits, refused, sync, pod_seconds = [], 0, SYNC_S, 0.0
    for now in arrivals(dice, period, mean, surge):
        while sync <= now:
            cluster.sync(sync)
            pod_seconds += cluster.size * SYNC_S
            sync += SYNC_S
        pod = min((dice.choice(cluster.pods) for _ in range(choices)), key=lambda pod: pod.waits(now))
        if (waiting := pod.waits(now)) > MAX_QUEUE_S:
            refused += 1
            continue
        waits.append(waiting)
        pod.add(seconds(dice), now)
    waits.sort()
    needed = sum(load(now, period, surge) for now in range(int(period))) / period
    p50, p99 = (waits[int(len(waits) * share)] for share in (0.5, 0.99))
    share = refused / (refused + len(waits))
    return Outcome(p50, p99, share, pod_seconds / period, needed, len(cluster.changes))


RULES: dict[str, Callable[[], Rule]] = {
    "the chart's": of_the_chart,
    "waiting alone, 1 s": lambda: Rule(0, 1),
    "waiting alone, 10 s": lambda: Rule(0, 10),
}
WAYS = {1: "any pod", 2: "the better of two"}
HEAD = """\
| requests take | go to | triggers | wait p50 | p99 | pods | resized | surge: refused | pods |
|---|---|---|---|---|---|---|---|---|"""


def rows(hours: float, seed: int) -> Iterator[tuple[str, dict[str, object]]]:
    """Each as a line of the table, and with all figures."""
    for (size, choices), (name, rule) in itertools.product(itertools.product(SIZES, WAYS), RULES.items()):
        wave, surge = (simulate(rule(), size, choices, times, hours, seed) for times in (1.0, SURGE))
        shown = f"| {size} | {WAYS[choices]} | {name} | {wave.p50:.2f} s | {wave.p99:.1f} s | {wave.pods:.1f}"
        shown += f" | {wave.resized} | {surge.refused:.1%} | {surge.pods:.1f} |"
        yield shown, {"size": size, "choices": choices, "rule": name, "wave": asdict(wave), "surge": asdict(surge)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    print(HEAD)
    figures = []
    for shown, row in rows(asked.hours, asked.seed):
        print(shown, flush=True)
        figures.append(row)
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
