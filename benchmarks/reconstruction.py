"""How near an attacker comes to deleted samples of a run: the answer of `audit --reconstruct`, kept with its command.

    python -m benchmarks.reconstruction RUN --never-seen URI --label NAME [--picks 20]

Writes benchmarks/results/reconstruction-NAME.json and prints its rows. The run must be there; it is unchanged. The page of results
shows the cosines and how many were found.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import taft_ray as tr

RESULTS = Path(__file__).parent / "results"
KNOWN = ("own sums", "public data")


def rows(attacks: Sequence[dict[str, Any]]) -> list[str]:
    """A line of Markdown per way and batch, the attackers side by side."""
    ways = list(dict.fromkeys((one["way"], one["batch"]) for one in attacks))
    lines = ["| way | at once | own: cosine | found | median rank | public: cosine | found | median rank | of |"]
    lines.append("|" + "---|" * 9)
    for way, batch in ways:
        cells = [way, f"{batch:,}"]
        several = [one for one in attacks if (one["way"], one["batch"]) == (way, batch)]
        for one in several:
            cells += [f"{one['cosine']:.3f}", f"{one['first']:.0%}", f"{one['median_rank']:g}"]
        lines.append(f"| {' | '.join([*cells, str(several[-1]['among'] + 1)])} |")
    return lines


def risk(by_label: Mapping[str, dict[str, Any]]) -> list[str]:
    """A line of Markdown per way and batch: cosine and share found, by data and by what the attacker knows."""
    heads = [f"{label}, {known} known" for label in by_label for known in KNOWN]
    lines = [f"| way | at once | {' | '.join(heads)} |", "|" + "---|" * (2 + len(heads))]
    found = {
        (label, one["way"], _of_shard(one), one["known"]): one
        for label, measured in by_label.items()
        for one in measured["attacks"]
    }
    epsilon = next(iter(by_label.values()))["epsilon"]
    for way, batch in dict.fromkeys((way, batch) for _, way, batch, _ in found):
        title = f"{way}, ε = {epsilon:g}" if way == "noisy sums" else way
        each = [found.get((label, way, batch, known)) for label in by_label for known in KNOWN]
        told = ["–" if one is None else f"{one['cosine']:.2f}, {one['first']:.0%}" for one in each]
        lines.append(f"| {' | '.join([title, batch, *told])} |")
    return lines


def _of_shard(one: dict[str, Any]) -> str:
    """The size of a batch; shards of two data sets have other sizes."""
    return "a shard" if one["way"] == "drop" else f"{one['batch']:,}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--never-seen", required=True)
    parser.add_argument("--label", required=True)
    parser.add_argument("--picks", type=int, default=20)
    given = parser.parse_args(arguments)
    answer = tr.Run(given.run).audit_reconstruction(given.never_seen, picks=given.picks)
    told = {name: value for name, value in answer.to_json().items() if name != "run"}
    command = f"taft-ray audit RUN --reconstruct --never-seen URI --picks {given.picks}"
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    kept = {"command": command, "label": given.label, "date": date, "cpus": os.cpu_count(), "measured": told}
    (RESULTS / f"reconstruction-{given.label}.json").write_text(json.dumps(kept, indent=1) + "\n")
    print("\n".join(rows(told["attacks"])))
    print(f"\n{answer.seconds:.0f} s")


if __name__ == "__main__":
    main()
