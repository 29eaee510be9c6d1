"""The examples in docstrings of public objects: where they are, and one object's as a program that is run."""

import doctest
import inspect
import re
from typing import Any

import taft_ray as tr

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# their methods' examples go on with the names that the class's own example has made
OF_MATHEMATICS = ("Delta", "Prepared", "TangentModel")
# examples that cannot run here, and why
SKIPPED: dict[str, str] = {}
# verbs that use Ray, and what begins with one
ON_RAY = (
    "taft_ray", "Run", "Run.train", "Run.evaluate", "Run.audit", "Run.sweep", "Run.repair", "Run.serve", "ray_session",
)  # fmt: skip

# Ray prints such a line where a machine is slow to start processes, whatever it is told of logs
_RAYLET = re.compile(r"^(\x1b\[\d+m)?\(raylet\).*\n", re.MULTILINE)


class _WithoutRaylet(doctest.OutputChecker):
    """The comparison of outputs, without lines of Ray's own processes."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want, _RAYLET.sub("", got), optionflags)


def public() -> dict[str, str]:
    """The docstrings of the package, of its names, and of the methods and properties of a run and of the mathematics."""
    found: dict[str, Any] = {"taft_ray": tr}
    found |= {name: getattr(tr, name) for name in tr.__all__ if name != "answers"}
    for owner in ("Run", *OF_MATHEMATICS):
        found |= {
            f"{owner}.{name}": member
            for name, member in vars(found[owner]).items()
            if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
        }
    return {name: inspect.cleandoc(member.__doc__ or "") for name, member in found.items()}


def examples_of(name: str, docstring: str) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(docstring, name)


def differences(name: str) -> str:
    """Run the object's examples in the working folder; what differed from what they show, "" where nothing did."""
    import torch

    docstrings, owner = public(), name.split(".")[0]
    before = docstrings[owner] if owner in OF_MATHEMATICS and name != owner else ""
    text = f"{before}\n\n{docstrings[name]}"
    test = doctest.DocTestParser().get_doctest(text, {"tr": tr, "torch": torch}, name, None, 0)
    told: list[str] = []
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        doctest.DocTestRunner(_WithoutRaylet(), optionflags=OPTIONS).run(test, out=told.append)
    return "".join(told)
