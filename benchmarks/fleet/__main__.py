"""What routing and scaling by seconds of waiting work are worth: the policy of `scale/policy.py` on a virtual clock.

    python -m benchmarks.fleet [--only routing|scaling] [--requests 10000] [--seeds 1,2,3] [--json FILE]

Requests of 10 to 1,000 documents come at random to routers that do not see each other; the replicas compute them pass
by pass, in the order the server's scheduler takes, as fast as the server was measured to be. `docs/fleet.md` says what
is compared, what came of it, and what the simulation leaves out.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.fleet import routing, scaling
from benchmarks.fleet.routers import ROUTERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["routing", "scaling"])
    parser.add_argument("--requests", type=int, default=10_000, help="of each row of routing and each seed, about")
    parser.add_argument("--seeds", default="1,2,3", help="a row of routing is their median; scaling takes the first")
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    began, found = time.monotonic(), dict[str, Any](seeds=seeds, requests=arguments.requests, routing=[], scaling=[])
    if arguments.only != "scaling":
        print(routing.HEAD)
        for case in routing.CASES:
            waits = routing.rows(case, ROUTERS, arguments.requests, seeds)
            found["routing"] += [asdict(row) for row in waits]
            print("\n".join(routing.lines(waits)), flush=True)
    if arguments.only != "routing":
        print(scaling.HEAD)
        for day in scaling.DAYS:
            costs = scaling.rows(day, seeds[0])
            found["scaling"] += [asdict(row) for row in costs]
            print("\n".join(scaling.lines(costs)), flush=True)
    print(f"\n{time.monotonic() - began:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
