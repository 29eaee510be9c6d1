"""Settings by Ray Tune, tried on the cached tokens of a run, and the run that they are for.

    python docs/examples/sweep_settings.py FOLDER

Trials are measured on pictures that are held out from the training data. The test pictures are looked at once, in the end.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pictures import patients

import taft_ray as tr
from taft_ray.embedded import EMBEDDED_NAME


def main(folder: Path) -> None:
    train, test = patients(folder / "data")
    run = tr.Run(folder / "run")
    with tr.ray_session():
        settings = {"model": EMBEDDED_NAME, "shards": 10, "solver": "ridge"}
        run.train(train, **settings)
        swept = run.sweep(trials=4, scheduler="none")
        print(swept)
        best = tr.Run(folder / "best")
        best.train(train, **settings | swept.best["settings"])
        for name, one in (("before", run), ("after", best)):
            print(
                f"{name} the sweep: accuracy {one.evaluate(test).by_composition['gram'].accuracy:.3f}"
            )  # of the tangent models


if __name__ == "__main__":
    main(Path(sys.argv[1]))
