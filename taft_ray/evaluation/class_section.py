"""The part of a report's page on single classes: who is taken for whom, and how sure the model is."""

from __future__ import annotations

from typing import Any

from taft_ray.evaluation import class_figures
from taft_ray.evaluation.drawing import drawn
from taft_ray.evaluation.markup import Raw, esc, table
from taft_ray.evaluation.measured import lookup
from taft_ray.evaluation.notation import percent


def class_section(report: dict[str, Any]) -> Raw:
    """Empty where no evaluation has measured classes."""
    evaluation = lookup(report["measurements"], "evaluation") or {}
    classes = evaluation.get("per_class") or []
    if not classes:
        return Raw("")
    error, top5 = evaluation.get("calibration_error"), evaluation.get("top5")
    told = [f"Expected calibration error: {percent(error)}." if error is not None else ""]
    told += [f"Among the best five: {percent(top5)}." if top5 is not None else ""]
    confused = evaluation.get("confused") or []
    parts = [
        f"<h2>Classes</h2>\n<p>{esc(' '.join(filter(None, told)))}</p>",
        drawn(
            class_figures.confusion,
            report,
            f"Confusion matrix of {len(classes)} classes; the table below has the most frequent mistakes.",
            "Rows are true classes. Blue is right, orange is wrong; the darker, the larger its share of the row.",
            f"No confusion matrix is drawn for {len(classes)} classes; the table has the most frequent mistakes.",
        ),
        drawn(
            class_figures.reliability,
            report,
            "Accuracy against confidence; a point per bin of confidence.",
            "A point per bin of confidence; larger ones have more pictures. On the dotted line the model is as sure as right.",
            "",
        ),
        table(
            "Accuracy of each class",
            ["Class", "Pictures", "Accuracy"],
            [[one["label"], f"{one['n']:,}", percent(one["accuracy"])] for one in classes],
            numeric=(1, 2),
        ),
    ]
    if confused:
        rows = [[one["true"], one["predicted"], f"{one['n']:,}"] for one in confused]
        parts.append(table("Most frequent mistakes", ["True class", "Predicted", "Pictures"], rows, numeric=(2,)))
    return Raw("\n".join(parts))
