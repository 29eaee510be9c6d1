"""A small run that has forgotten in every mode and signed for it, and its objects in memory, to be changed one by one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from folder import plain_forget, shard_of
from plain import InlinePasses, plain_train
from tiny import SAMPLES, SHARDS, sample_id

from taft_ray.composer.composer import Composer
from taft_ray.errors import ObjectMissing
from taft_ray.plans.spec import RunSpec
from taft_ray.prefix.cache import build_cache
from taft_ray.prefix.part_writer import remove_markers
from taft_ray.prefix.passes import index_source
from taft_ray.privacy import SigningKey
from taft_ray.progress import silent
from taft_ray.proof.checks import chain
from taft_ray.proof.evidence import Evidence
from taft_ray.proof.signature import sign_certificate
from taft_ray.run.spec import run_spec
from taft_ray.storage import ObjectInfo, Store, id_key, write_manifest
from taft_ray.storage import rundir as names

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER_KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
MODES = ("retrain", "drop", "resolve")


def private_pem(seed: bytes = bytes(range(32))) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def public_pem(seed: bytes = bytes(range(32))) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def one_of_each_shard() -> list[str]:
    return [next(sample_id(n) for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == s) for s in range(SHARDS)]


def plain_evaluation_cache(run: Path, data: Path) -> None:
    """The cache that `evaluate` makes, without Ray."""
    store = Store(str(run))
    spec, prefix = run_spec(store), names.eval_prefix(str(data))
    ledger_state = Evidence(address=str(run), store=store, spec=spec)
    chain(ledger_state)
    state = ledger_state.state
    result = build_cache(
        InlinePasses(), store, str(run), spec, source=index_source(InlinePasses(), str(data), state.classes), shards=1,
        assignment="hash", folders=f"{prefix}/shard={{shard:05d}}", tombstones=state,
        secret=id_key(store, create=False), workers=1, report=silent,
    )  # fmt: skip
    meta = {"parts": result.parts, "classes": list(result.classes), "fingerprint": result.fingerprint, "stamp": ""}
    write_manifest(store.inside(prefix), result.table, meta)
    remove_markers(store, f"{prefix}/shard=00000")


def proved_run(run: Path, spec: RunSpec, test_data: Path) -> dict[str, dict[str, Any]]:
    """Train, forget a sample of three shards in the three modes, sign two of the certificates; the certificates by mode."""
    plain_train(run, spec)
    found = {mode: plain_forget(run, [name], mode) for mode, name in zip(MODES, one_of_each_shard(), strict=False)}
    composer = Composer(str(run))
    for mode in ("mean", "gram"):
        composer.compose(mode)
    plain_evaluation_cache(run, test_data)
    for mode in ("retrain", "drop"):
        found[mode] = sign_certificate(str(run), found[mode]["request"], KEY)
    return found


class Held(Store):
    """A run's objects in memory, so that one can be changed thousands of times a second."""

    def __init__(self, run: Path, scratch: Path, objects: dict[str, bytes] | None = None) -> None:
        super().__init__(str(run))
        self.root, self.scratch = run, scratch
        real = Store(str(run))
        self.objects = {info.key: real.read(info.key) for info in real.list()} if objects is None else objects

    def read(self, key: str) -> bytes:
        if key not in self.objects:
            raise ObjectMissing(f"cannot read {key} in {self.uri}: there is no such object")
        return self.objects[key]

    def exists(self, key: str) -> bool:
        return key in self.objects

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        return [ObjectInfo(key, len(data)) for key, data in sorted(self.objects.items()) if key.startswith(prefix)]

    def fetch(self, key: str, into: Path | None = None) -> Path:
        path = self.scratch / "fetched"
        path.write_bytes(self.read(key))
        return path

    def inside(self, folder: str) -> Store:
        within = {key[len(folder) + 1 :]: data for key, data in self.objects.items() if key.startswith(f"{folder}/")}
        return Held(self.root / folder, self.scratch, within)

    @contextmanager
    def changed(self, key: str, data: bytes | None) -> Iterator[None]:
        """With other bytes, or without the object."""
        before = self.objects[key]
        if data is None:
            del self.objects[key]
        else:
            self.objects[key] = data
        try:
            yield
        finally:
            self.objects[key] = before


def evidence_of(store: Held) -> Evidence:
    """Evidence of an intact run, up to where the checks after the chain begin."""
    evidence = Evidence(address=str(store.root), store=store, spec=run_spec(store))
    assert chain(evidence)
    evidence.sizes = {info.key: info.size for info in store.list()}
    return evidence


def problems_of(evidence: Evidence, *checks: Callable[[Evidence], Any]) -> list[str]:
    """The problems that these checks find now."""
    fresh = replace(evidence, problems=[], checks={}, notes=[])
    for check in checks:
        check(fresh)
    return fresh.problems
