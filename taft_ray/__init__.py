"""taft_ray: fine-tune linearised vision transformers on shards that can be forgotten exactly.

A run in storage:

    >>> import taft_ray as tr
    >>> run = tr.Run("runs/pets")  # nothing starts, nothing is read yet
    >>> trained = run.train(
    ...     data="pets/train", model="deit_tiny_patch16_224", weights="deit_tiny.safetensors", shards=5
    ... )
    >>> run.evaluate("pets/test").n
    24
    >>> certificate = run.forget(ids=["cats/17.jpg"], mode="retrain")
    >>> certificate.samples, certificate.mode
    (1, 'retrain')
    >>> run.verify().ok
    True

`Run` has a method per verb (help(taft_ray.Run)). `runs` finds the runs in a folder, and `compare` puts runs side by side.
`taft_ray.answers` has the types of all answers. The commands of ``taft-ray`` do the same.

The mathematics needs neither ray nor files. `linearize` makes a `TangentModel` of a timm network. `fit` fits a `Delta` on
`Prepared` pictures as `FitConfig` says. `compose` composes several deltas. Names are looked up when they are first used: a
process that only reads pictures must not wait seconds for torch.
"""

from typing import TYPE_CHECKING

from taft_ray import answers
from taft_ray.lazy import attributes
from taft_ray.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from taft_ray.fitting import FitConfig, fit
    from taft_ray.plans.lane_resources import LaneResources
    from taft_ray.plans.spec import RunSpec
    from taft_ray.privacy import read_public_key, read_signing_key
    from taft_ray.sums import compose
    from taft_ray.tangent import Delta, Prepared, TangentModel, linearize
    from taft_ray.verbs.run import Run, compare, doctor, ray_session, runs, tune, verify_certificate


__all__ = [
    "Delta",
    "FitConfig",
    "LaneResources",
    "Prepared",
    "Run",
    "RunSpec",
    "TangentModel",
    "answers",
    "compare",
    "compose",
    "doctor",
    "fit",
    "linearize",
    "ray_session",
    "read_public_key",
    "read_signing_key",
    "runs",
    "tune",
    "verify_certificate",
]

_WHERE = {
    "taft_ray.fitting": ("FitConfig", "fit"),
    "taft_ray.plans.lane_resources": ("LaneResources",),
    "taft_ray.plans.spec": ("RunSpec",),
    "taft_ray.privacy": ("read_public_key", "read_signing_key"),
    "taft_ray.sums": ("compose",),
    "taft_ray.tangent": ("Delta", "Prepared", "TangentModel", "linearize"),
    "taft_ray.verbs.run": ("Run", "compare", "doctor", "ray_session", "runs", "tune", "verify_certificate"),
}


__getattr__ = attributes(__name__, _WHERE)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
