"""`predict`: class probabilities of pictures by the composed model, as it is now. Starts no Ray."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

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

if TYPE_CHECKING:
    from taft_ray.workers.explaining import Explanation


@operation("predict")
def predict(
    run: str,
    pictures: Sequence[str],
    *,
    why: bool = False,
    owners: Sequence[str] = (),
    report: Report = silent,
) -> dict[str, Any]:
    """Predict the classes of pictures: files, folders, Parquet or tars, in the order given.

    {"run", "composed", "classes", "n": how many are predicted, "predictions": [{"picture", "label", "probability",
    "probabilities": [of each class]}], "unreadable": [{"picture", "reason"}]}. Pictures that cannot be read are counted and named,
    and the others are predicted. "settings" where an additive run has a policy (`tune`): if they were stale, they are chosen again
    first, and committed.

    why: tell which shards and owners weigh most in the answers, under "why" of the first pictures and "explained".

    owners: names to show. Others are shown by a hash.
    """
    if not pictures:
        raise UsageError("no pictures were given; give files, a folder, Parquet or a tar")
    if owners and not why:
        raise UsageError("owners are named for an explanation; add --why, or leave --owners out")
    run = run_address(run)
    run_spec(Store(run))  # there is a run
    files = find_pictures(pictures)
    composer = Composer(run)
    composer.recover()
    composed, tuned = composer.served()
    classes = composer.class_names()
    from taft_ray.workers.explaining import Seen, explain
    from taft_ray.workers.predicting import predictions

    store, spec, seen = composer.record.store, composer.record.spec, Seen() if why else None
    if owners:
        spec.check_additive("what owners weigh in an answer")
    found: list[dict[str, Any]] = []
    unreadable: list[dict[str, str]] = []
    for some in predictions(store, spec, len(classes), composed["key"], _reported(files, report), tuned, seen):
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
    told: dict[str, Any] = {}
    if seen is not None and len(seen):
        explained = explain(composer.record, seen, composed["key"], tuned, owners, report)
        told = {"explained": _explained(explained)}
        for at, prediction in enumerate(found[: len(seen)]):
            prediction["why"] = _why(explained, at, classes)
    return {
        "run": run,
        "composed": composed["digest"],
        "classes": classes,
        "n": len(found),
        "predictions": found,
        "unreadable": unreadable,
        **settings_told(tuned),
        **told,
    }


def _explained(explained: Explanation) -> dict[str, Any]:
    return {
        "kind": explained.kind,
        "groups": dict(Counter(one.group for one in explained.groups)),
        "pictures": len(explained.logits),
        "left_out": list(explained.left_out),
        "seconds": explained.seconds,
        **({} if explained.penalty is None else {"penalty": explained.penalty}),
    }


def _why(explained: Explanation, at: int, classes: Sequence[str]) -> dict[str, Any]:
    """The explanation of a picture, the groups that change its margin most first."""
    logits = explained.logits[at]
    label = int(logits.argmax())
    margin = margin_of(logits, label)
    groups = []
    for one in explained.groups:
        told: dict[str, Any] = {"group": one.group, "name": one.name, "samples": one.samples}
        if one.logits is None:
            told |= {"label": None, "margin": None, "change": None, "logits": None}
        else:
            left = one.logits[at]
            without = margin_of(left, label)
            told |= {"label": classes[int(left.argmax())], "margin": without, "change": without - margin}
            told["logits"] = left.tolist()
        groups.append(told if one.part is None else {**told, "part": one.part[at].tolist()})
    groups.sort(key=lambda group: -abs(group["change"]) if group["change"] is not None else -math.inf)
    return {"margin": margin, "logits": logits.tolist(), "groups": groups}


def margin_of(logits: np.ndarray, label: int) -> float:
    """The logit of a class less the largest other one; of a single class its logit."""
    others = np.delete(logits, label)
    return float(logits[label] - (others.max() if len(others) else 0.0))


def _reported(files: Sequence[SourceFile], report: Report) -> Iterator[list[Named]]:
    """The pictures, with a word on how many are done; how many there are is known of single files alone."""
    total = len(files) if all(file.format == "image" for file in files) else 0
    done = 0
    for some in read_pictures(files):
        report("predict", done, max(total, done + len(some)))
        yield some
        done += len(some)
    report("predict", done, done)
