"""Constraints for pip that hold every dependency to its lower bound in pyproject.toml.

python tests/support/lower_bounds.py > lower.txt
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def lower_bounds() -> list[str]:
    """A line per dependency; AssertionError for one that has no lower bound."""
    lines = []
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        one = Requirement(line)
        bounds = [specifier.version for specifier in one.specifier if specifier.operator == ">="]
        assert len(bounds) == 1, f"{line}: expected one lower bound"
        lines.append(f"{one.name}=={bounds[0]}")
    return lines


if __name__ == "__main__":
    print("\n".join(lower_bounds()))
