"""`dossier`: one folder about a run for a regulator or a customer, and how to check it without taft_ray. Starts no Ray."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from taft_ray.errors import StorageError, Unregistered, UsageError
from taft_ray.log import operation
from taft_ray.pages import certificate_page
from taft_ray.pages.dossier_page import dossier_page
from taft_ray.pages.how_to_verify import how_to_verify
from taft_ray.pages.model_card import model_card
from taft_ray.plans.releases import STATEMENT, Released
from taft_ray.run.address import run_address
from taft_ray.run.record import Record
from taft_ray.run.register import NOBODY, Recipient, commit, file_digest, made_of, new_name, sent_to
from taft_ray.run.spec import run_spec
from taft_ray.storage import Store, canonical_json
from taft_ray.verbs.dossier_facts import Gathered, gather
from taft_ray.verbs.printed import print_pdf

FACTS, PAGE, PRINTED, SUMS = "dossier.json", "index.html", "dossier.pdf", "SHA256SUMS"


@operation("dossier")
def dossier(run: str, folder: str, recipient: Recipient = NOBODY, register: bool = True) -> dict[str, Any]:
    """Write the folder, and register it as a statement: {"run", "folder", "ok", "files", "pdf", "not_read", "problems"}.

    ok: everything could be read, and `verify` found no problem. The folder is there whole, or not at all; one that exists is refused.

    With the name of its release as "release". Without ``register``, and where the ledger cannot be written, it has
    {"registered": false} instead.
    """
    run, path = run_address(run), Path(folder).expanduser()
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} is there already; give a folder that does not exist")
    spec, name = run_spec(Store(run)), new_name()
    found = gather(run, spec)
    aside = path.parent / f".{path.name}.{name}"
    try:
        aside.mkdir(parents=True)
        told = _written(aside, found, name)
        try:
            _register(run, aside, name, told, recipient)
        except Unregistered:
            if register:
                raise
            told = {**{key: value for key, value in told.items() if key != "release"}, "registered": False}
            _facts_and_sums(aside, told)
        aside.rename(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {
        "run": run,
        "folder": str(path),
        "ok": told["ok"],
        "digest": file_digest(path / FACTS),
        "files": sorted([*(one["file"] for one in told["files"]), FACTS, SUMS]),
        "pdf": told["pdf"],
        "requests": len(told["requests"]),
        "certificates": sum(one["certificate"] is not None for one in told["requests"]),
        "not_read": told["not_read"],
        "problems": (told["verification"] or {"problems": []})["problems"],
        **{key: told[key] for key in ("release", "registered") if key in told},
    }


def _written(folder: Path, found: Gathered, release: str) -> dict[str, Any]:
    """Write every file; the facts as they are in dossier.json."""
    facts = found.facts
    until = (facts["retention"] or {"until": None})["until"]
    for file, data in found.files.items():
        _write(folder / file, data)
    for file, (certificate, key, checked) in found.pages.items():
        _write(folder / file, certificate_page(certificate, key, checked, until).encode())
    _write(folder / "README.md", model_card(facts).encode())
    _write(folder / "VERIFY.md", how_to_verify(facts["requests"]).encode())
    _write(folder / PAGE, dossier_page(facts).encode())
    missing = print_pdf(folder / PAGE, folder / PRINTED)
    said = f"{PRINTED} is this page, printed." if missing is None else f"{PRINTED} was left out: {missing}."
    _write(folder / PAGE, dossier_page(facts, said).encode())
    files = sorted(one for one in folder.rglob("*") if one.is_file())
    listed = [
        {"file": one.relative_to(folder).as_posix(), "sha256": file_digest(one), "bytes": one.stat().st_size}
        for one in files
    ]
    printed: dict[str, Any] = {"file": PRINTED} if missing is None else {"left_out": missing}
    told = {**facts, "pdf": printed, "files": listed, "release": release}
    _facts_and_sums(folder, told)
    return told


def _facts_and_sums(folder: Path, told: Mapping[str, Any]) -> None:
    data = canonical_json(told) + b"\n"
    _write(folder / FACTS, data)
    sums = {**{one["file"]: one["sha256"] for one in told["files"]}, FACTS: hashlib.sha256(data).hexdigest()}
    _write(folder / SUMS, "".join(f"{digest}  {file}\n" for file, digest in sorted(sums.items())).encode())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


def _register(run: str, folder: Path, name: str, told: Mapping[str, Any], recipient: Recipient) -> None:
    """The statement is dossier.json, which names the digest of each other file."""
    record = Record(run)
    made: Released = sent_to(made_of(record, STATEMENT, told["model"]["composed"], None), recipient)
    file = folder / FACTS
    beside = {SUMS: file_digest(folder / SUMS)}
    commit(record, replace(made, release=name, digest=file_digest(file), bytes=file.stat().st_size, beside=beside))
