"""A run's bits, observed through the command line alone: whatever moves inside the package, this stays as it is.

python tests/bits/observe.py new      digests-new.json anew, on purpose, where bits may change

python tests/bits/observe.py kept     this version's kept runs and their digests, before the version changes
"""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NEW = HERE / "digests-new.json"
FITS = {
    "ridge": ("--solver", "ridge", "--compose", "gram"),
    "joint": ("--solver", "ridge", "--compose", "joint"),
    "adam": ("--solver", "adam", "--compose", "mean", "--epochs", "4", "--slices", "2"),
}
# the runs in runs-VERSION.tar.xz: the kinds that are new in that version, as its last commit left them
KEPT = {
    "0.1.0": ("ridge", "adam"),
    "0.2.0": ("additive", "tiers", "private", "released"),
}
# a file of one version's runs that lies in an earlier version's archive: the embedded model's last block is the same in all
SHARED = {"0.2.0": {"tiers/base/base.safetensors": ("0.1.0", "ridge/base/base.safetensors")}}
# samples, and a mode where it is not the default
REQUESTS: dict[str, tuple[tuple[str, str | None], ...]] = {
    "ridge": (("person-001", "retrain"), ("person-004", "resolve"), ("person-005", "drop")),
    "adam": (("person-001", "retrain"), ("person-005", "drop")),
    "additive": (("person-001", None), ("person-005", "drop")),
    "tiers": (("person-001", None),),
    "private": (("person-001", None),),
    "released": (("person-013", None),),
}
NOISY = ("private",)  # the noise of a new fit is drawn from a secret, so that its digest is never the same
# fields of a certificate that are no time, no place and no position in the ledger
_LASTING = (
    "schema", "request", "mode", "samples", "id_hashes", "owners", "whole_shards", "shards", "composed_before",
    "composed_after", "composition", "manifest_before", "manifest_after", "deltas_removed", "objects_removed",
    "older_versions_removed", "still_listed_after_purge", "shards_after", "damage", "does_not_cover",
)  # fmt: skip
_OF_EVERY_RUN = ("--shards", 2, "--device", "cpu", "--precision", "float32", "--seed", 7, "--lanes", 1)
_FEW = ("--features", 64)


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
    answer = command("train", run, "--data", data, "--trainable", "bitfit", *_OF_EVERY_RUN, *FITS[name], env=env)
    return {"spec": _spec(run), "cache": _parts(run), **model(answer)}


def forget(run: Path, name: str, ask: Callable[..., dict[str, Any]] = command) -> list[dict[str, Any]]:
    """The requests of a kept run, one after the other: what each certificate says, its digest, and the model after it."""
    observed = []
    for sample, mode in REQUESTS[name]:
        certificate = ask("forget", run, "--ids", sample, *(() if mode is None else ("--mode", mode)))
        lasting = {key: certificate[key] for key in _LASTING}
        lasting["retrained"] = [
            {key: one[key] for key in ("shard", "generation", "samples", "delta")} for one in certificate["retrained"]
        ]
        lasting["spec"] = certificate["run"]["spec_digest"]
        observed.append({"mode": certificate["mode"], "certificate": _digest(lasting), **model(ask("status", run))})
    return observed


def model(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The digests of an answer of `status` or `train`: the composed model, and each shard's delta."""
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


def digests(version: str) -> dict[str, Any]:
    """The record of a version's kept runs: `kept`, as they lie there, and `forget`, after each request."""
    return json.loads((HERE / f"digests-{version}.json").read_text())


def unpack(version: str, folder: Path) -> None:
    """A version's kept runs, into a folder."""
    with tarfile.open(_archive(version)) as kept:
        kept.extractall(folder, filter="data")
    for name, (earlier, same) in SHARED.get(version, {}).items():
        with tarfile.open(_archive(earlier)) as kept:
            content = kept.extractfile(same)
            assert content is not None
            (folder / name).write_bytes(content.read())


def _archive(version: str) -> Path:
    return HERE / f"runs-{version}.tar.xz"


def _pack(root: Path, version: str) -> None:
    """Every kept run of the version with what lies beside it, less what an earlier archive has."""
    shared = SHARED.get(version, {})
    with tarfile.open(_archive(version), "w:xz", preset=9) as kept:
        for name in KEPT[version]:
            for folder in sorted(root.glob(f"{name}*/")):  # tombstones lie beside a run
                kept.add(folder, folder.name, filter=lambda one: None if one.name in shared else one)


def _record_new(root: Path) -> None:
    from tiny import write_parquet

    data = write_parquet(root / "pets", range(24))
    found = {"made_on": made_on(), "train": {name: train(root / name, data, name) for name in FITS}}
    NEW.write_text(json.dumps(found, indent=1) + "\n")


def _record_kept(root: Path) -> None:
    """The kinds of runs that are new in this version, small ones; an earlier version's are kept already."""
    import tempfile

    from tiny import CLASSES, write_parquet

    from taft_ray.version import VERSION

    names = KEPT[VERSION]
    data, more = write_parquet(root / "first", range(12)), write_parquet(root / "more", range(12, 18))
    new = ("--data", data, *_OF_EVERY_RUN, *_FEW)
    command("train", root / "additive", *new, "--solver", "additive")
    command("train", root / "tiers", *new, "--trainable", "bitfit")
    command(
        "train", root / "private", *new, "--private", "--solver", "dp-additive", "--epsilon", 8, "--delta", 1e-5,
        "--steps", 4, "--classes", ",".join(CLASSES),
    )  # fmt: skip
    released = root / "released"
    command("train", released, *new, "--solver", "additive")
    command("train", released, "--add", more, "--add-shards", 1, "--lanes", 1)
    command("export", released, "--output", root / "released.pt2", "--to", "a clinic", "--until", "2099-01-01")
    command("forget", released, "--ids", "person-004")
    command("release", released, "--after", 10)

    _pack(root, VERSION)
    found: dict[str, Any] = {"made_on": made_on(), "kept": {}, "forget": {}}
    with tempfile.TemporaryDirectory() as folder:
        unpack(VERSION, Path(folder))
        for name in names:
            run = Path(folder) / name
            found["kept"][name] = model(command("status", run))
            if name not in NOISY:
                found["forget"][name] = forget(run, name)
    (HERE / f"digests-{VERSION}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent / "support"))
    record = {"new": _record_new, "kept": _record_kept}[sys.argv[1]]
    record(Path("/data"))  # a kept run names its place, and no machine's
