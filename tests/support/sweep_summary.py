"""A sweep's summary: a finished trial, a stopped and a failed one, and settings that were refused."""

from typing import Any


def trial(number: int, status: str = "finished", **settings: Any) -> dict[str, Any]:
    curve = [[50.0, 0.4], [100.0, 0.5 + number / 100]] if status == "finished" else [[50.0, 0.3]]
    effort, accuracy = curve[-1]
    measured = {"status": status, "accuracy": accuracy, "effort": effort, "seconds": 1.5, "curve": curve}
    return {"number": number, "settings": settings, **measured}


def sweep_summary() -> dict[str, Any]:
    trials = [
        trial(0, solver="ridge", penalty=0.01, reset=True),
        trial(1, "stopped", solver="adam", penalty=0.1, reset=False, learning_rate=1e-3),
        {
            "number": 2,
            "settings": {"solver": "ridge", "penalty": 1.0},
            "status": "failed",
            "error": "<b>&",
            "curve": [],
        },
    ]
    return {
        "sweep": "a1b2", "run": "runs/<script>", "objective": "composed", "scheduler": "asha", "space": ["solver=ridge,adam"],
        "seed": 0, "held_out": 40, "fitted_on": 160, "best": trials[0], "standard_error": 0.05, "as_good_as_best": 1,
        "trials": trials, "refused": [{"settings": {"loss": "ce"}, "reason": "is not <least> squares"}], "forgotten_since": 0,
    }  # fmt: skip
