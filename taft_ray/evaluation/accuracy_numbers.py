"""The numbers of a report about accuracy: of the model, of every composition, and of the monolith."""

import math
from typing import Any

from taft_ray.evaluation.derived import no_monolith, number
from taft_ray.evaluation.measured import Measured, lookup

NO_EVALUATION = "not measured: no evaluation of this model is recorded (every forget and retrain makes another one): taft-ray evaluate"


def accuracy(measured: Measured, notes: list[str]) -> dict[str, Any]:
    """Accuracies with their margins, and what separates them from the monolith's."""
    numbers: dict[str, Any] = {}
    wanted = lookup(measured.facts, "run.spec.compose")
    modes = {str(lookup(measured.facts, f"composition[{i}].mode")): i for i in range(measured.count("composition"))}
    served = "evaluation.accuracy"
    if measured.number(served) is None and wanted in modes:
        served = f"composition[{modes[wanted]}].accuracy"
    paths = {
        "accuracy": ("accuracy of the composed model", served, NO_EVALUATION),
        "accuracy_monolith": ("accuracy of the monolith", "monolith.accuracy", no_monolith(measured)),
    } | {
        f"accuracy_{mode}": (f"accuracy composed by {mode}", f"composition[{i}].accuracy", NO_EVALUATION)
        for mode, i in modes.items()
    }
    for name, (label, path, missing) in paths.items():
        sources = measured.take([path])
        numbers[name] = number(label, "accuracy", path, sources, sources.get(path), reason=missing)
        sources = measured.take([path, "evaluation.n"])
        numbers[f"{name}_margin"] = number(
            f"95 % margin of {label}",
            "points",
            f"1.96 × sqrt({path} × (1 − {path}) / evaluation.n) × 100",
            sources,
            _margin(sources.get(path), sources.get("evaluation.n")),
            reason=missing if path not in sources else "not measured: the number of evaluated samples is not recorded",
        )
    for name, (label, path, missing) in paths.items():
        if name != "accuracy_monolith":
            sources = measured.take([path, "monolith.accuracy"])
            gap = 100 * (sources[path] - sources["monolith.accuracy"]) if len(sources) == 2 else None
            numbers[f"{name}_gap"] = number(
                f"{label}, less the monolith's",
                "points",
                f"({path} − monolith.accuracy) × 100",
                sources,
                gap,
                reason=missing if path not in sources else no_monolith(measured),
            )
    evaluated, current = lookup(measured.facts, "evaluation.composed"), lookup(measured.facts, "run.composed")
    if evaluated and current and evaluated != current:
        notes.append(
            f"The accuracy was measured on the composed model {evaluated}; the run now holds {current}: evaluate again."
        )
    return numbers


def _margin(share: float | None, n: float | None) -> float | None:
    if share is None or not n or not 0 <= share <= 1:
        return None
    return 100 * 1.96 * math.sqrt(share * (1 - share) / n)
