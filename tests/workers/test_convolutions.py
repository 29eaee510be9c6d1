"""A network of convolutions through cache, fit and composition: what its suffix reads are maps, not tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from plain import plain_train
from safetensors.torch import save_file
from tiny import write_parquet


# the first torch.func.jvp of a process imports torch's own decompositions, which call it
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_a_resnet_trains(tmp_path: Path, spec_of: Callable[..., Any]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    spec = spec_of(
        write_parquet(tmp_path / "data", range(24)), model="test_resnet", weights=str(tmp_path / "weights.safetensors"),
        image_size=None, shards=2, max_iterations=3,
    )  # fmt: skip
    composer = plain_train(tmp_path / "run", spec)
    assert len(composer.snapshot().in_model) == 2
    assert composer.compose("gram")["digest"] != composer.compose("mean")["digest"]
