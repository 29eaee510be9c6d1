"""A composed model to serve: pictures in, logits out, and nothing to train.

Behind the class token the last block needs one row of queries and no keys or values. So the linearised model costs less
than the network it was made from. With all blocks trained, each weight enters three products instead of one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from taft_ray.tangent.model import TangentModel


class ComposedModel(nn.Module):
    """f_w(x) + J_w f(x)·Δw for one fixed Δw (TAFT eq. 1): normalised pictures (B, 3, height, width) -> logits (B, K).

    Can be given to ``torch.export`` and to ``torch.onnx``, with any batch size. DeltaMismatch for a Δw of another model.
    """

    def __init__(self, tm: TangentModel, delta: Mapping[str, Tensor]) -> None:
        super().__init__()
        tm.zero_delta().check_like(delta)
        self.tm = tm
        self._buffer_of = {name: f"delta_{index}" for index, name in enumerate(delta)}
        for name, buffer in self._buffer_of.items():
            self.register_buffer(buffer, delta[name].to(tm.device, tm.dtype))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.tm(images, {name: getattr(self, buffer) for name, buffer in self._buffer_of.items()})

    def exported(self, pictures: Tensor) -> torch.export.ExportedProgram:
        """The model as a graph that takes any number of pictures like these."""
        batch = torch.export.Dim("batch", min=1)
        example = pictures if len(pictures) > 1 else pictures.repeat(2, 1, 1, 1)  # one would be taken for a constant
        return torch.export.export(self, (example,), dynamic_shapes=({0: batch},))
