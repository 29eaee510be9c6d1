"""Pictures of three colours as tokens of a network's prefix."""

import torch

from taft_ray.systems import TokenSet
from taft_ray.tangent import TangentModel

CLASSES = 3


def token_set(tm: TangentModel, count: int, seed: int) -> TokenSet:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = torch.randn(count, 3, 32, 32, generator=generator)
    images[torch.arange(count), labels] += 1.0
    keys = [f"{seed:08d}{number:08d}".encode() for number in range(count)]
    return TokenSet(keys=keys, labels=labels, tokens=tm.prefix(images).to(torch.float16))
