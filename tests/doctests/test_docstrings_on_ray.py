"""The examples of verbs that use Ray print what they show, too."""

import shutil
from pathlib import Path

import pytest
from docstring_examples import ON_RAY, differences
from pets import write_weights

pytestmark = pytest.mark.slow
TRAINING = ("taft_ray", "Run", "Run.train")  # they make runs/pets


@pytest.fixture(scope="module")
def deit_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "deit_tiny.safetensors"
    write_weights(file, "deit_tiny_patch16_224", 224)
    return file


@pytest.mark.parametrize("name", ON_RAY)
def test_an_example_on_ray_prints_what_it_shows(
    name: str, beside_the_pets: Path, deit_tiny: Path, ray_session: None
) -> None:
    if name in TRAINING:
        shutil.rmtree("runs")
    shutil.copy(deit_tiny, beside_the_pets)
    assert not (told := differences(name)), told
