"""The sdist and the wheel, built as `python -m build` does it: what they must have, and what they must not."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

from taft_ray.version import VERSION

ROOT = Path(__file__).parents[1]
FOLDERS = ("taft_ray", "tests", "docs", "benchmarks", "cluster", "jobs", ".ci")
CACHES = ("__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis", ".import_linter_cache", ".benchmarks")
UNTRACKED = (".git", ".venv", "runs", "site", "shared", "build", "dist")
HOOK = "import setuptools.build_meta as b; print('built', b.build_{}({!r}), sep='\\n')"


class Built(NamedTuple):
    sdist: dict[str, bytes]
    wheel: dict[str, bytes]


def build(kind: str, source: Path, into: Path) -> Path:
    into.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", HOOK.format(kind, str(into))], cwd=source, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


def _left_out(folder: str, names: list[str]) -> list[str]:
    """Names that no checkout has, and the environment."""
    here = [name for name in names if fnmatch(name, "*.egg-info") or name in CACHES]
    return [*here, *(UNTRACKED if Path(folder) == ROOT else ())]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel is built from the unpacked sdist, so that the sdist has what building needs."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder / "source", ignore=_left_out)
    sdist = build("sdist", folder / "source", folder / "dist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    unpacked = folder / "unpacked" / f"taft_ray-{VERSION}"
    in_sdist = {str(path.relative_to(unpacked)): path.read_bytes() for path in unpacked.rglob("*") if path.is_file()}
    with zipfile.ZipFile(build("wheel", unpacked, folder / "dist")) as archive:
        in_wheel = {name: archive.read(name) for name in archive.namelist()}
    return Built(in_sdist, in_wheel)


def test_the_wheel_has_the_package_and_what_it_reads(built: Built) -> None:
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "taft_ray").rglob("*") if path.is_file()}
    there = {name for name in built.wheel if not name.startswith(f"taft_ray-{VERSION}.dist-info/")}
    assert there == {name for name in files if not name.endswith(".pyc")}
    for name in ("py.typed", "embedded/MODEL_CARD.md", "embedded/taft_vit_cifar.safetensors", "embedded/config.json"):
        assert f"taft_ray/{name}" in there
    assert len([name for name in there if name.startswith("taft_ray/answers/schemas/")]) > 30
    assert len([name for name in there if name.startswith("taft_ray/pages/templates/")]) > 20


def test_the_wheel_has_the_licence_and_the_notice(built: Built) -> None:
    licences = {
        name.partition("/licenses/")[2]: content for name, content in built.wheel.items() if "/licenses/" in name
    }
    assert licences == {name: (ROOT / name).read_bytes() for name in ("LICENSE", "NOTICE")}


def test_the_wheel_says_its_version_and_its_command(built: Built) -> None:
    info = f"taft_ray-{VERSION}.dist-info"
    metadata = message_from_bytes(built.wheel[f"{info}/METADATA"])
    assert (metadata["Name"], metadata["Version"]) == ("taft_ray", VERSION)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert b"taft-ray = taft_ray.cli:main" in built.wheel[f"{info}/entry_points.txt"]


def test_the_sdist_has_what_building_and_testing_need(built: Built) -> None:
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and not set(CACHES) & set(path.parts):
                assert str(path.relative_to(ROOT)) in built.sdist, path
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            assert built.sdist[path.name] == path.read_bytes(), path


def test_nothing_else_travels(built: Built) -> None:
    """No data, no run, no cache of a tool."""
    allowed = {
        *FOLDERS,
        "taft_ray.egg-info",
        "PKG-INFO",
        "setup.cfg",
        *(one.name for one in ROOT.iterdir() if one.is_file()),
    }
    assert {name.partition("/")[0] for name in built.sdist} <= allowed
    assert not [name for name in built.sdist if name.endswith(".pyc") or "__pycache__" in name]


def test_everything_embedded_is_told_in_the_notice() -> None:
    """A script, a style or weights that travel in the package are ours, or have their licence beside them."""
    notice = (ROOT / "NOTICE").read_text()
    for path in (ROOT / "taft_ray").rglob("*"):
        if path.suffix in (".js", ".css", ".safetensors", ".woff", ".woff2", ".ttf"):
            assert path.name in notice, path
