"""The additive model: rows -> logits. Legend: n pictures, S numbers, K classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from taft_ray.additive.exact_sums import Sums
from taft_ray.additive.grid import UNIT, check_rows, from_rows
from taft_ray.additive.options import GRID
from taft_ray.additive.projection import Projection
from taft_ray.additive.ridge import Solution, solve
from taft_ray.additive.rows import on_grid
from taft_ray.additive.settings import Settings, SiteGroup
from taft_ray.additive.sites import site_vectors
from taft_ray.additive.tuning import column_scales
from taft_ray.errors import DataError, DeltaMismatch


@dataclass(frozen=True, kw_only=True, eq=False)
class AdditiveModel:
    """logits = C a + c. ``recipe`` names the rows that it is a model of, as in `Sums`."""

    coefficients: np.ndarray  # (K, S) float64
    intercept: np.ndarray  # (K,) float64
    penalty: float
    recipe: str = ""

    @classmethod
    def of(cls, sums: Sums, penalty: float | None = None, scales: np.ndarray | None = None) -> AdditiveModel:
        """The model of these sums (`solve`). penalty: λ; None chooses it by generalised cross-validation. scales: as of `solve`."""
        return cls.from_solution(solve(sums, GRID if penalty is None else (penalty,), scales), sums.recipe)

    @classmethod
    def chosen(cls, sums: Sums, groups: Sequence[SiteGroup], settings: Settings) -> AdditiveModel:
        """The model of these sums with these settings of `Tuner`."""
        scales = column_scales(groups, settings.size, settings.weights)
        return cls.of(sums, settings.penalty, scales).scaled(settings.kappa)

    @classmethod
    def from_solution(cls, solution: Solution, recipe: str = "") -> AdditiveModel:
        return cls(
            coefficients=solution.coefficients,
            intercept=solution.intercept,
            penalty=solution.penalty,
            recipe=recipe,
        )

    def logits(self, rows: np.ndarray) -> np.ndarray:
        """int16 (n, S) -> float64 (n, K)."""
        check_rows(rows, self.coefficients.shape[1])
        return from_rows(rows) @ self.coefficients.T + self.intercept

    def scaled(self, factor: float) -> AdditiveModel:
        """The same classes for every picture; the softmax of the logits is surer, the larger the factor is."""
        return replace(self, coefficients=self.coefficients * factor, intercept=self.intercept * factor)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """For storage."""
        return {
            "additive/coefficients": self.coefficients,
            "additive/intercept": self.intercept,
            "additive/penalty": np.array([self.penalty]),
            "additive/recipe": np.frombuffer(self.recipe.encode(), np.uint8).copy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> AdditiveModel:
        """The model that `to_arrays` gave; DataError where it is none."""
        try:
            coefficients, intercept, penalty, recipe = (
                arrays[f"additive/{name}"] for name in ("coefficients", "intercept", "penalty", "recipe")
            )
        except KeyError as error:
            raise DataError(f"no additive model: {error} is missing") from error
        if coefficients.ndim != 2 or intercept.shape != coefficients.shape[:1] or penalty.shape != (1,):
            raise DataError(f"an additive model of shapes {coefficients.shape} and {intercept.shape}; it is damaged")
        return cls(
            coefficients=coefficients,
            intercept=intercept,
            penalty=float(penalty[0]),
            recipe=bytes(recipe.tolist()).decode(),
        )


class AdditiveNetwork(nn.Module):
    """Pictures (B, 3, H, W) -> logits (B, K): the network's forward pass, its sites, the projection and an additive model.

    Can be given to ``torch.export`` and to ``torch.onnx``, with any batch size.

    Guarantees: the logits are those of the rows that would be stored of the pictures, rounding included.
    """

    coefficients: Tensor
    intercept: Tensor

    def __init__(self, network: nn.Module, projection: Projection, model: AdditiveModel) -> None:
        super().__init__()
        if model.recipe not in ("", projection.digest):
            raise DeltaMismatch(
                f"a model of recipe {model.recipe[:12]!r}: expected {projection.digest[:12]!r}, that of the projection"
            )
        self.network, self._projection = network, projection
        self.register_buffer("coefficients", torch.from_numpy(model.coefficients * UNIT))
        self.register_buffer("intercept", torch.from_numpy(model.intercept.copy()))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        a = self._projection(site_vectors(self.network, self._projection.sites, images))
        return (on_grid(a) @ self.coefficients.T + self.intercept).to(images.dtype)

    def exported(self, pictures: Tensor) -> torch.export.ExportedProgram:
        """The model as a graph that takes any number of pictures like these."""
        batch = torch.export.Dim("batch", min=1)
        example = pictures if len(pictures) > 1 else pictures.repeat(2, 1, 1, 1)  # one would be taken for a constant
        return torch.export.export(self, (example,), dynamic_shapes=({0: batch},))
