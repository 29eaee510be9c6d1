"""The folder of `pets`, made once, and a copy of it as the working folder of each test."""

import shutil
from pathlib import Path

import pytest
from pets import make_pets


@pytest.fixture(scope="session")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pets")
    make_pets(root)
    return root


@pytest.fixture
def beside_the_pets(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(pets, tmp_path / "pets"))
    monkeypatch.chdir(folder)
    return folder
