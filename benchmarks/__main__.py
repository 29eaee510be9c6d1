"""Run every benchmark in this folder, one after the other: ``python -m benchmarks [options of the benchmarks]``.

A benchmark is a module with ``main(arguments)``. Modules named ``make_*`` build files of the package and measure nothing.
"""

import importlib
import pkgutil
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not module.name.startswith(("make_", "__")):
            importlib.import_module(f"benchmarks.{module.name}").main(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
