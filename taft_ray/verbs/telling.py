"""Recalls for those who have no endpoint: notices as files to be sent by mail, and the note that somebody was told. Starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taft_ray.errors import StorageError, UsageError
from taft_ray.log import operation
from taft_ray.plans.recalls import Standing
from taft_ray.plans.releases import RecallTold
from taft_ray.privacy import SigningKey
from taft_ray.proof.notice import notice, signed
from taft_ray.run.address import run_address
from taft_ray.run.record import Record
from taft_ray.run.register import check_line
from taft_ray.run.state import check_newest
from taft_ray.storage import digest_bytes
from taft_ray.verbs.recalls import recalled_of, recalls_of


@operation("recalls --write")
def write(run: str, folder: str, key: SigningKey, *, releases: Sequence[str] = ()) -> dict[str, Any]:
    """Write a signed notice per recalled release that nobody was told of: the answer of `recalls`, with "written".

    A file has the bytes that `notify` sends. The ledger stays as it is: `told` notes that one was sent.

    releases: those alone, also where they were told before. A file that is there with other bytes is never replaced (UsageError).
    """
    run, path = run_address(run), Path(folder).expanduser()
    record = Record(run)
    check_newest(record.store, record.state)
    due = [one for one in recalled_of(record.state, releases) if releases or not one.release.notified()]
    files = {
        path / f"recall-{one.release.fact.release}.json": (one, signed(notice(record.state, record.spec, one), key))
        for one in due
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        for file, (_, data) in files.items():
            if file.exists() and file.read_bytes() != data:
                raise UsageError(f"{file} is there and is another notice, or none; give another folder as --write")
        for file, (_, data) in files.items():
            aside = file.with_name(f".{file.name}")
            aside.write_bytes(data)
            aside.replace(file)  # whole, or not there
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}; give a folder that can be") from error
    written = [
        {
            "release": one.release.fact.release,
            "file": str(file),
            "to": one.release.fact.to,
            "contact": one.release.fact.contact,
            "sha256": digest_bytes(data),
        }
        for file, (one, data) in files.items()
    ]
    return {**recalls_of(record.store, run, record.state), "written": written}


@operation("recalls --told")
def told(run: str, releases: Sequence[str], by: str) -> dict[str, Any]:
    """Note that whoever has these recalled releases was told of it by other means: the answer of `recalls` after it.

    by: who told it, and how; the ledger keeps it, with the time. The same note again changes nothing.
    """
    check_line("by", by)
    record = Record(run_address(run))
    check_newest(record.store, record.state)
    for one in recalled_of(record.state, releases):
        _note(record, one, by)
    record.refresh()
    return recalls_of(record.store, record.store.uri, record.state)


def _note(record: Record, one: Standing, by: str) -> None:
    fact = RecallTold(one.release.fact.release, one.requests, by)
    op = digest_bytes("\n".join([by, *one.requests]).encode())[:16]
    record.commit(RecallTold, f"{fact.release}/told/{op}", lambda: fact)
