"""A package that is optional and not there is named with the extra that installs it; every such extra exists."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import observe
import pytest
from command import here
from packaging.requirements import Requirement

from taft_ray.extras import EXTRAS, unreadable

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "mlflow": "mlflow-skinny"}
WITH_TORCH = ("triton",)  # on the platforms for which there is one; looked for by `find_spec`


class Blocked(MetaPathFinder):
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """These packages cannot be imported any more, as on a machine that lacks them."""
    for module in list(sys.modules):
        if module.partition(".")[0] in names:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Blocked(names), *sys.meta_path])


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("gcsfs", "gcs", ("status", "gs://bucket/run")),
        ("gcsfs", "gcs", ("list", "gcs://bucket")),
        ("gcsfs", "gcs", ("predict", "{run}", "gs://bucket/pictures")),
        ("adlfs", "azure", ("status", "abfs://container/run")),
        ("adlfs", "azure", ("status", "abfss://container/run")),
        ("adlfs", "azure", ("predict", "{run}", "az://container/pictures")),
        ("fastapi", "serve", ("serve", "{run}")),
        ("starlette", "serve", ("serve", "{run}")),
        ("uvicorn", "serve", ("serve", "{run}")),
        ("onnx", "onnx", ("export", "{run}", "--output", "{run}.onnx")),
        ("onnxscript", "onnx", ("export", "{run}", "--output", "{run}.onnx")),
    ],
)
def test_the_error_names_the_package_and_its_extra(
    package: str, extra: str, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe.unpack("0.2.0", tmp_path)
    for protocol in ("gs", "gcs", "abfs", "abfss", "az"):  # file systems that another test used
        monkeypatch.delitem(import_module("fsspec.registry")._registry, protocol, raising=False)
    without(monkeypatch, package)
    answer = here(*(word.format(run=tmp_path / "additive") for word in arguments))
    answer.complains(2, f"needs {package}")
    answer.complains(2, f"pip install 'taft_ray[{extra}]'")


@pytest.mark.parametrize("protocol", ["gs", "abfss"])
def test_an_address_that_an_installed_package_refuses_is_no_missing_package(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    assert unreadable(protocol, "reading it", ValueError("no bucket in this address")) is None


def test_every_extra_that_is_named_exists() -> None:
    named = set(EXTRAS.values())
    for folder, kinds in {"taft_ray": "py", "docs": "md", "cluster": "*", "jobs": "py", ".": "md"}.items():
        for file in (ROOT / folder).glob(f"*.{kinds}" if folder == "." else f"**/*.{kinds}"):
            if file.suffix != ".pyc" and file.is_file():
                named |= set(re.findall(r"taft_ray\[([a-z]+)\]", file.read_text()))
    assert named >= {"serve", "onnx", "mlflow", "gcs", "azure"}
    assert named <= set(PROJECT["optional-dependencies"])


def test_every_package_with_an_extra_is_installed_by_it() -> None:
    """The servers of `serve` come with Ray's own extra."""
    for package, extra in EXTRAS.items():
        asked = [Requirement(one) for one in PROJECT["optional-dependencies"][extra]]
        names = {one.name for one in asked} | {name for one in asked for name in one.extras}
        assert DISTRIBUTIONS.get(package, package) in names or "serve" in names, package


def imports() -> Iterator[tuple[Path, str, bool]]:
    """Each import of another package in taft_ray: the file, the package, and whether its absence is caught."""

    def walk(file: Path, node: ast.AST, caught: bool) -> Iterator[tuple[Path, str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((file, one.name.partition(".")[0], caught) for one in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield file, node.module.partition(".")[0], caught
        for child in ast.iter_child_nodes(node):
            within = isinstance(node, ast.Try) and child in node.body
            yield from walk(file, child, caught or (within and "ImportError" in ast.unparse(node)))

    for file in (ROOT / "taft_ray").rglob("*.py"):
        yield from walk(file, ast.parse(file.read_text()), False)


def test_every_import_is_a_dependency_or_guarded_by_such_an_error() -> None:
    """`taft_ray.serving` is behind the guard of `taft-ray serve`, and imports what that looks for."""
    required = {Requirement(one).name for one in PROJECT["dependencies"]}
    for file, package, caught in imports():
        if package in sys.stdlib_module_names or package == "taft_ray" or package in WITH_TORCH:
            continue
        if DISTRIBUTIONS.get(package, package) in required:
            continue
        assert package in EXTRAS, f"{file} imports {package}, which no dependency and no extra has"
        serving = EXTRAS[package] == "serve" and file.parent.name == "serving"
        assert caught or serving, f"{file} imports {package}, and nothing says which extra has it"
