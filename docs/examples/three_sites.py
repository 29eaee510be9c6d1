"""One model of three sites, each private by itself.

    python docs/examples/three_sites.py FOLDER

A site is a shard. Each site's pictures are covered by noise of their own, so a site spends its own budget.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pictures import CLASSES, sites

import taft_ray as tr
from taft_ray.embedded import EMBEDDED_NAME


def main(folder: Path) -> None:
    names = ("north", "south", "west")
    (first, *others), test = sites(folder / "data", names)
    run = tr.Run(folder / "run")
    private = {"private": True, "solver": "dp-additive", "epsilon": 8.0, "delta": 1e-5, "features": 512}
    with tr.ray_session():
        run.train(first, model=EMBEDDED_NAME, shards=1, classes=CLASSES, **private)
        print(f"accuracy {run.evaluate(test).accuracy:.3f} with {names[0]} alone")
        for file in others:
            run.train(add=file, add_shards=1)
        print(f"accuracy {run.evaluate(test).accuracy:.3f} with all three")
        print(run.privacy())

        run.forget(shards=[2], mode="drop")  # a site leaves; that costs no privacy
        print(f"accuracy {run.evaluate(test).accuracy:.3f} without {names[2]}")
    assert run.verify().ok
    statement = run.privacy_statement(folder / "privacy.json")
    print(f"to be published: {statement.written}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
