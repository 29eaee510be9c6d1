"""Run the benchmarks that need nothing from outside: ``python -m benchmarks [--json]``.

``figures`` needs weights and data sets and is started by itself; ``make_embedded_vit`` builds a file of the package.
"""

import sys

from benchmarks import step

MODELS = ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224")

if __name__ == "__main__":
    step.main([*(f"--model={model}" for model in MODELS), *sys.argv[1:]])
