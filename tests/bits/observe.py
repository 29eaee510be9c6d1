"""A run's bits, observed through the command line alone: whatever moves inside the package, this stays as it is.

python tests/bits/observe.py      records digests.json and runs.tar.xz anew, on purpose, where bits may change
"""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RUNS, DIGESTS = HERE / "runs.tar.xz", HERE / "digests.json"
FITS = {
    "ridge": ("--solver", "ridge", "--compose", "gram"),
    "joint": ("--solver", "ridge", "--compose", "joint"),
    "adam": ("--solver", "adam", "--compose", "mean", "--epochs", "4", "--slices", "2"),
}
KEPT = ("ridge", "adam")  # these lie in runs.tar.xz, as version 0.1.0 left them
REQUESTS = {
    "ridge": (("person-001", "retrain"), ("person-004", "resolve"), ("person-005", "drop")),
    "adam": (("person-001", "retrain"), ("person-005", "drop")),
}
# what a certificate says that is no time, no place and no position in the ledger
_LASTING = (
    "schema", "request", "mode", "samples", "id_hashes", "owners", "whole_shards", "shards", "composed_before",
    "composed_after", "composition", "manifest_before", "manifest_after", "deltas_removed", "objects_removed",
    "older_versions_removed", "still_listed_after_purge", "shards_after", "damage", "does_not_cover",
)  # fmt: skip


def command(*arguments: object, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The answer of a command, run as a user runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "taft_ray.cli", *map(str, arguments), "--json"],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def train(run: Path, data: Path, name: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A new run: its spec without places, its cache, its deltas and the composed model."""
    answer = command(
        "train", run, "--data", data, "--shards", 2, "--trainable", "bitfit", "--device", "cpu", "--precision", "float32",
        "--seed", 7, "--lanes", 1, *FITS[name], env=env,
    )  # fmt: skip
    return {"spec": _spec(run), "cache": _parts(run), **_model(answer)}


def forget(run: Path, name: str, env: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """The requests of a kept run, one after the other: what each certificate says, its digest, and the model after it."""
    observed = []
    for sample, mode in REQUESTS[name]:
        certificate = command("forget", run, "--ids", sample, "--mode", mode, env=env)
        lasting = {key: certificate[key] for key in _LASTING}
        lasting["retrained"] = [
            {key: one[key] for key in ("shard", "generation", "samples", "delta")} for one in certificate["retrained"]
        ]
        lasting["spec"] = certificate["run"]["spec_digest"]
        observed.append({"mode": mode, "certificate": _digest(lasting), **_model(command("status", run, env=env))})
    return observed


def _model(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {"composed": answer["composed"], "deltas": [shard["delta"] for shard in answer["shards"]]}


def _spec(run: Path) -> str:
    spec = json.loads((run / "run.json").read_text())["spec"]
    return _digest({key: value for key, value in spec.items() if key not in ("data", "versions")})


def _parts(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.glob("cache/**/*.arrow"))


def _digest(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def made_on() -> dict[str, str]:
    """Everything that the last bits of a fit depend on beside its spec."""
    import platform

    import torch

    return {
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__.partition("+")[0],
    }


def unpack(folder: Path) -> None:
    """The kept runs, into a folder."""
    with tarfile.open(RUNS) as kept:
        kept.extractall(folder, filter="data")


def main() -> None:
    import tempfile

    from tiny import write_parquet

    root = Path("/data")  # a kept run names its place, and no machine's
    data = write_parquet(root / "pets", range(24))
    found: dict[str, Any] = {"made_on": made_on(), "train": {}, "forget": {}}
    for name in FITS:
        found["train"][name] = train(root / name, data, name)
    with tarfile.open(RUNS, "w:xz", preset=9) as kept:
        for name in KEPT:
            kept.add(root / name, name)
    with tempfile.TemporaryDirectory() as folder:
        unpack(Path(folder))
        for name in KEPT:
            found["forget"][name] = forget(Path(folder) / name, name)
    DIGESTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()
