"""The random schedules once more, in a storage whose objects are damaged on the way, and with repairs in many hands."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from folder import flip_a_byte
from hypothesis import strategies as st
from hypothesis.stateful import rule
from schedule import Schedule, carry_out, composers, faults, fit_and_hand_in
from toy_run import write_toy_part

from taft_ray.composer.composer import Composer
from taft_ray.errors import IntegrityError
from taft_ray.storage import rundir as names
from taft_ray.verbs.gc import gc

REPAIRS = 5


class DamagedSchedule(Schedule):
    """Deltas and cache parts are damaged at any time; in the end everything is as if they had not been."""

    @rule(pick=st.integers(0, 99), folder=st.sampled_from(["deltas", "cache"]))
    def damage(self, pick: int, folder: str) -> None:
        found = sorted(path for path in (Path(self.run) / folder).rglob("*") if path.is_file())
        if found:
            flip_a_byte(found[pick % len(found)])

    @rule(which=composers, shard=st.integers(0, 2), planned=faults)
    def look(self, which: int, shard: int, planned: Any) -> None:
        self.call(which, lambda composer: composer.examine([shard]), planned)

    @rule(which=composers, planned=faults)
    def repair(self, which: int, planned: Any) -> None:
        self.call(which, repair, planned)

    @rule()
    def collect_garbage(self) -> None:
        with suppress(IntegrityError):  # a damaged delta is for the composer to put aside
            gc(str(self.run))

    def finish_everything(self) -> None:
        composer = Composer(str(self.run))
        composer.recover()
        for _ in range(REPAIRS):
            if left := [r.request for r in composer.snapshot().requests.values() if r.forgotten is None]:
                carry_out(composer, left)
            repair(composer)
            while (task := composer.take("last")) is not None:
                fit_and_hand_in(composer, task)
        super().finish_everything()


def repair(composer: Composer) -> None:
    """Do what the command does, without a source: the toy's tokens are all zeros."""
    found, store = composer.examine_everything(), composer.record.store
    made: dict[str, Any] = {"base": found["base"], "shards": {}}
    forgotten = composer.snapshot().tombstones.keys()
    for number, one in found["shards"].items():
        rows = one["rows"].to_pylist()
        if forgotten & {row["id_hash"] for row in rows}:
            continue
        parts = []
        for part in sorted({row["part"] for row in rows}):
            keys = sorted(row["key"] for row in rows if row["part"] == part)
            ref = write_toy_part(store, names.shard_prefix(number, one["generation"]), part, keys)
            parts.append({**ref.to_json(), "part": part, "keys": keys})
        made["shards"][number] = {"generation": one["generation"], "parts": parts}
    if made["shards"]:
        composer.repaired(made)
