"""Pictures to answers in a replica: decoded one by one, then computed together, whichever models they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from taft_ray.data import Undecodable, decode_image
from taft_ray.run.environment import settle
from taft_ray.serving.replica import Replica, Unconfirmed
from taft_ray.serving.slot import Reference
from taft_ray.workers.predicting import labelled

Pixels = Sequence[np.ndarray]  # uint8 (3, size, size) each


@dataclass(frozen=True)
class Asked:
    """Pictures for one model of the pool."""

    name: str
    pixels: Pixels


@dataclass
class _Together:
    """Questions that are computed with one reference, by their places."""

    reference: Reference
    questions: list[int] = field(default_factory=list)


def decoded(replica: Replica, name: str, pictures: Sequence[bytes], most: int) -> tuple[Pixels, list[dict[str, Any]]]:
    """The pixels of encoded pictures as ``name`` takes them; and those that cannot be read, {"picture": its index, "reason"}.

    most: pixels that one may have. Unconfirmed where the model is not loaded yet.
    """
    model = replica.model(name)
    if model is None:
        raise Unconfirmed(replica.told(name).get("why", "it is not loaded yet"))
    pixels, unreadable = [], []
    for index, data in enumerate(pictures):
        try:
            pixels.append(decode_image(data, model.frozen.preprocess.size, model.frozen.spec.exif_orientation, most))
        except Undecodable as error:
            unreadable.append({"picture": index, "reason": error.reason})
    return pixels, unreadable


def answered(replica: Replica, questions: Sequence[Asked]) -> list[dict[str, Any]]:
    """The answers to questions that came together: {"composed", "ledger", "predictions"}, or {"unconfirmed": why}.

    While the run's release gate holds a model back, predictions have labels alone, and "held" says why.

    Each model's reference is read once. Pictures of models with the same frozen part go through it together.
    """
    answers: list[dict[str, Any]] = [{} for _ in questions]
    of_model: dict[str, _Together] = {}
    for index, asked in enumerate(questions):
        try:
            if asked.name not in of_model:
                of_model[asked.name] = _Together(replica.read(asked.name))
            of_model[asked.name].questions.append(index)
        except Unconfirmed as error:
            answers[index] = {"unconfirmed": str(error)}
    try:
        found = _computed(list(of_model.values()), questions)
    finally:
        fine = {name: replica.released(one.reference) for name, one in of_model.items()}
    for name, one in of_model.items():
        for index in one.questions:
            late = {"unconfirmed": f"{name} cannot be answered: its lease ran out while it was"}
            answers[index] = _told(one.reference, found[index]) if fine[name] else late
    return answers


def _computed(several: Sequence[_Together], questions: Sequence[Asked]) -> Mapping[int, list[tuple[int, list[float]]]]:
    """Label and probabilities of each picture, by question."""
    found: dict[int, list[tuple[int, list[float]]]] = {}
    by_frozen: dict[str, list[_Together]] = {}
    for one in several:
        by_frozen.setdefault(one.reference.model.frozen.key, []).append(one)
    for group in by_frozen.values():
        frozen = group[0].reference.model.frozen
        settle(frozen.spec)  # for this thread
        pixels = [picture for one in group for index in one.questions for picture in questions[index].pixels]
        tokens, at = frozen.tokens(pixels), 0
        for one in group:
            counts = [len(questions[index].pixels) for index in one.questions]
            mine = tokens[at : at + sum(counts)]
            at += sum(counts)
            rows = iter(labelled(one.reference.model.answers.logits(mine)))
            for index, count in zip(one.questions, counts, strict=True):
                found[index] = [next(rows) for _ in range(count)]
    return found


def _told(reference: Reference, rows: Sequence[tuple[int, list[float]]]) -> dict[str, Any]:
    classes = reference.model.classes
    return {
        "composed": reference.digest,
        "ledger": reference.number,
        "classes": list(classes),
        **({} if reference.held_back is None else {"held": reference.held_back}),
        "predictions": [
            {"label": classes[label]}
            if reference.held_back is not None
            else {"label": classes[label], "probability": values[label], "probabilities": values}
            for label, values in rows
        ],
    }
