"""`predict`: class probabilities of pictures by the composed model, as it is now. Starts no Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from taft_ray.composer.composer import Composer
from taft_ray.data.source_file import SourceFile
from taft_ray.data.unlabelled import Named, find_pictures, read_pictures
from taft_ray.errors import UsageError
from taft_ray.log import operation
from taft_ray.progress import Report, silent
from taft_ray.run.address import run_address
from taft_ray.run.spec import run_spec
from taft_ray.storage import Store
from taft_ray.verbs.settings import settings_told


@operation("predict")
def predict(run: str, pictures: Sequence[str], *, report: Report = silent) -> dict[str, Any]:
    """Predict the classes of pictures: files, folders, Parquet or tars, in the order given.

    {"run", "composed", "classes", "n": how many are predicted, "predictions": [{"picture", "label", "probability",
    "probabilities": [of each class]}], "unreadable": [{"picture", "reason"}]}. Pictures that cannot be read are counted and named,
    and the others are predicted. "settings" where an additive run has a policy (`tune`): if they were stale, they are chosen again
    first, and committed.
    """
    if not pictures:
        raise UsageError("no pictures were given; give files, a folder, Parquet or a tar")
    run = run_address(run)
    run_spec(Store(run))  # there is a run
    files = find_pictures(pictures)
    composer = Composer(run)
    composer.recover()
    composed, tuned = composer.served()
    classes = composer.class_names()
    from taft_ray.workers.predicting import predictions

    store, spec = composer.record.store, composer.record.spec
    found: list[dict[str, Any]] = []
    unreadable: list[dict[str, str]] = []
    for some in predictions(store, spec, len(classes), composed["key"], _reported(files, report), tuned):
        for one in some:
            if one.reason:
                unreadable.append({"picture": one.name, "reason": one.reason})
                continue
            found.append(
                {
                    "picture": one.name,
                    "label": classes[one.label],
                    "probability": one.probabilities[one.label],
                    "probabilities": list(one.probabilities),
                }
            )
    return {
        "run": run,
        "composed": composed["digest"],
        "classes": classes,
        "n": len(found),
        "predictions": found,
        "unreadable": unreadable,
        **settings_told(tuned),
    }


def _reported(files: Sequence[SourceFile], report: Report) -> Iterator[list[Named]]:
    """The pictures, with a word on how many are done; how many there are is known of single files alone."""
    total = len(files) if all(file.format == "image" for file in files) else 0
    done = 0
    for some in read_pictures(files):
        report("predict", done, max(total, done + len(some)))
        yield some
        done += len(some)
    report("predict", done, done)
