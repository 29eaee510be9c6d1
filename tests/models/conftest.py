"""Random weights of small timm models, as files that other trainers would have written."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]


@cache
def _state(model: str, size: int | None) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sized: dict[str, Any] = {} if size is None else {"img_size": size}
        return timm.create_model(model, **sized).state_dict()


@pytest.fixture
def state_of() -> Callable[..., State]:
    """Random weights of a model, always the same; a new dict each time."""
    return lambda model, size=None: dict(_state(model, size))


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    """Writes a state as safetensors; its path."""

    def write(state: State, name: str = "weights.safetensors") -> str:
        path = tmp_path / name
        save_file({key: value.clone().contiguous() for key, value in state.items()}, path)
        return str(path)

    return write
