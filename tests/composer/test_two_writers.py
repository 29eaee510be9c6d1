"""Two composers of one run, each holding still where it hurts most, and schedules that hypothesis found: told one by one."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from folder import files, finish, holders, state_of
from store_faults import DIE_AFTER, DIE_BEFORE, Fault, Killed, Stalled, fault, faults_possible
from toy_run import EVERYONE, SHARDS, composed_of, fit, key_of, make_run, prefix_pass, shard_of

import taft_ray as tr
from benchmarks.additive_forget import name_of, synthetic_run
from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.proof.verify_run import verify
from taft_ray.run.turn import Turn
from taft_ray.storage import Store
from taft_ray.storage import rundir as names
from taft_ray.storage.rundir import TURN_KEY
from taft_ray.verbs.gc import gc


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A trained toy run: three shards of four samples."""
    with faults_possible():
        make_run(tmp_path / "run")
        composer = Composer(str(tmp_path / "run"))
        while (task := composer.take("lane")) is not None:
            composer.finished(fit(composer.record.store, task))
        composer.compose()
        yield tmp_path / "run"


def one_of(shard: int, which: int = 0) -> str:
    return [name for name in EVERYONE if shard_of(name) == shard][which]


class Worker:
    """The toy model's, as `finish` wants one."""

    def __init__(self, run: Path) -> None:
        self.store = Store(str(run))

    def fit(self, task: dict[str, Any]) -> dict[str, Any]:
        return fit(self.store, task)


def forget(run: Path, ids: list[str], mode: str, composer: Composer | None = None) -> dict[str, Any]:
    composer = composer or Composer(str(run))
    asked = composer.request_forget(Selection(ids=tuple(ids)), mode)
    return finish(composer, asked, Worker(run))  # type: ignore[arg-type]  # only its fit is used


def left_after(*forgotten: str, without: int | None = None) -> list[set[str]]:
    shards = [shard for shard in range(SHARDS) if shard != without]
    return [{name for name in EVERYONE if shard_of(name) == shard and name not in forgotten} for shard in shards]


def changes_of_a_purge() -> range:
    """Where to hold a purge still: at every change of storage that it makes."""
    return range(1, 13)


@pytest.mark.parametrize("at", changes_of_a_purge())
@pytest.mark.parametrize("other", ["same shard", "another shard"])
def test_purge_that_wakes_up_late_undoes_no_newer_one(run: Path, at: int, other: str) -> None:
    """It must neither put the older manifest back, nor remove what a newer purge, fit or certificate has made."""
    first, second = one_of(0), one_of(0, 1) if other == "same shard" else one_of(1)
    sleeper = Composer(str(run))
    request = sleeper.request_forget(Selection(ids=(first,)), "retrain")["request"]
    asleep = Stalled(lambda: sleeper.resume_forget(request), at)
    forget(run, [second], "retrain")  # which finishes the sleeper's purge, too
    forget(run, [first], "retrain")
    asleep.wake()
    assert asleep.error is None
    assert verify(str(run))["checks"]["cached samples"] == len(EVERYONE) - 2
    gc(str(run))
    assert verify(str(run))["problems"] == []
    assert Composer(str(run)).composed_digest() == composed_of(left_after(first, second))


@pytest.mark.parametrize("at", range(1, 4))
def test_composition_that_wakes_up_late_leaves_no_forgotten_shard(run: Path, at: int) -> None:
    """Law 1: its snapshot has been purged as something that was not there yet."""
    (run / "composed").rename(run / "composed.away")
    sleeper = Composer(str(run))
    asleep = Stalled(sleeper.compose, at)
    certificate = forget(run, [one_of(0)], "drop")
    asleep.wake()
    assert asleep.error is None
    assert [path.stem for path in files(run, "composed")] == [certificate["composed_after"]]


def test_garbage_collection_leaves_a_purge_at_work_alone(run: Path) -> None:
    """Parts and rows that are written and not yet committed are what the ledger will name next."""
    for at in range(1, 8):
        sleeper = Composer(str(run))
        asked = sleeper.request_forget(Selection(ids=(one_of(at % SHARDS, at // SHARDS),)), "retrain")
        asleep = Stalled(lambda sleeper=sleeper, asked=asked: finish(sleeper, asked, Worker(run)), at)  # type: ignore[arg-type]
        gc(str(run))
        asleep.wake()
        assert asleep.error is None, at
        gc(str(run))
        assert verify(str(run))["problems"] == [], at


def test_prefix_pass_that_ends_after_a_forget_brings_nothing_back(run: Path) -> None:
    """A second `train`, begun before the first had its cache, ends when a sample is forgotten already."""
    certificate = forget(run, [one_of(0)], "retrain")
    driver = Composer(str(run))
    driver.admit_cache(prefix_pass(Store(str(run))))
    assert holders(run, key_of(one_of(0))) == []
    assert verify(str(run))["problems"] == []
    assert driver.composed_digest() == certificate["composed_after"]


@pytest.mark.parametrize("at", changes_of_a_purge())
def test_prefix_pass_that_writes_while_a_purge_removes_brings_nothing_back(run: Path, at: int) -> None:
    """Its parts have the names of those that are being removed: they are removed again."""
    sleeper = Composer(str(run))
    request = sleeper.request_forget(Selection(ids=(one_of(0),)), "retrain")["request"]
    asleep = Stalled(lambda: sleeper.resume_forget(request), at)
    written = prefix_pass(Store(str(run)))
    asleep.wake()
    assert asleep.error is None
    finish(sleeper, sleeper.forgetting.answer(request), Worker(run))  # type: ignore[arg-type]
    Composer(str(run)).admit_cache(written)
    assert holders(run, key_of(one_of(0))) == []
    gc(str(run))
    assert verify(str(run))["problems"] == []


def test_fit_from_before_a_purge_is_not_admitted_after_it(run: Path) -> None:
    """Also where the purge took nothing from the shard's cache, so that the fit read what is still there."""
    forget(run, [one_of(0)], "drop")
    composer = Composer(str(run))
    request = composer.request_forget(Selection(ids=(one_of(0),)), "retrain")["request"]
    composer.resume_forget(request)
    late = fit(Store(str(run)), composer.task_for(0) or {})
    again = composer.request_forget(Selection(ids=(one_of(0), one_of(1))), "retrain")
    composer.resume_forget(again["request"])
    assert composer.finished(late) is False
    assert not (run / late["delta"]["key"]).exists()


@pytest.mark.parametrize("at", range(1, 7))
def test_purge_overtaken_by_that_of_another_shard_is_made_again_from_the_newer_manifest(run: Path, at: int) -> None:
    """Both write a manifest from the same one; the second to commit would bring back what the first took out."""
    first, second = one_of(0), one_of(1)
    sleeper, other = Composer(str(run)), Composer(str(run))
    # a request finishes the purges that it finds: this one has looked for them already
    asking = Stalled(lambda: other.request_forget(Selection(ids=(second,)), "retrain"), 1)
    request = sleeper.request_forget(Selection(ids=(first,)), "retrain")["request"]
    asleep = Stalled(lambda: sleeper.resume_forget(request), at)
    asking.wake()
    overtaking = asking.answer["request"]
    other.resume_forget(overtaking)
    asleep.wake()
    assert asleep.error is None
    for name in (first, second):
        assert holders(run, key_of(name)) == []
    for asked in (request, overtaking):
        finish(other, other.forgetting.answer(asked), Worker(run))  # type: ignore[arg-type]
    assert verify(str(run))["problems"] == []
    assert Composer(str(run)).composed_digest() == composed_of(left_after(first, second))


def test_fit_that_ends_between_a_drop_and_its_purge_is_stale(run: Path) -> None:
    """Its generation is still the current one, and what it read held the sample."""
    forget(run, [one_of(0)], "drop")
    composer = Composer(str(run))
    back = composer.request_forget(Selection(ids=(one_of(0),)), "retrain")["request"]
    composer.resume_forget(back)
    late = fit(Store(str(run)), composer.task_for(0) or {})
    request = composer.request_forget(Selection(ids=(one_of(0, 1),)), "retrain")["request"]
    assert composer.snapshot().requests[request].purged is None
    assert composer.finished(late) is False
    assert not (run / late["delta"]["key"]).exists()
    assert state_of(run).shards[0].state != "trained"


def test_fit_of_other_parts_than_the_shard_has_is_stale(run: Path) -> None:
    """Whatever it read, it was not what the ledger says the shard is."""
    composer = Composer(str(run))
    request = composer.request_forget(Selection(ids=(one_of(0),)), "retrain")["request"]
    composer.resume_forget(request)
    fitted = fit(Store(str(run)), composer.task_for(0) or {})
    assert composer.finished({**fitted, "parts": ["0" * 64]}) is False


def test_purge_leaves_what_another_process_may_be_about_to_commit(run: Path) -> None:
    """The delta of the generation that is current, and parts of the next; everything older goes."""
    request = Composer(str(run)).request_forget(Selection(ids=(one_of(0),)), "retrain")["request"]
    at = 0
    while state_of(run).requests[request].rewritten is None:
        at += 1
        with fault(Fault(DIE_AFTER, at)), pytest.raises(Killed):
            Composer(str(run)).resume_forget(request)
    store, now = Store(str(run)), state_of(run).shards[0].current
    at_work = [f"{names.delta_folder(0)}/{now}-new.safetensors", f"{names.shard_prefix(0, now + 1)}/part-00000.arrow"]
    dead = [f"{names.delta_folder(0)}/{now - 1}-old.safetensors", f"{names.shard_prefix(0, now)}/part-00099.arrow"]
    for key in at_work + dead:
        store.write(key, b"by another process")
    Composer(str(run)).resume_forget(request)
    assert [key for key in at_work + dead if store.exists(key)] == at_work


def test_first_fit_reported_again_does_not_take_the_start_of_a_resolve(run: Path) -> None:
    """A lane whose answer was lost reports twice; its delta has become what a resolve starts from."""
    state = state_of(run)
    first = next(fit for fit in state.fits if fit.shard == 0)
    composer = Composer(str(run))
    request = composer.request_forget(Selection(ids=(one_of(0),)), "resolve")["request"]
    composer.resume_forget(request)
    composer.finished(first.to_json())
    start = (composer.task_for(0, resolve=True) or {})["resolve"]["start"]
    assert start["key"] == first.delta.key
    assert (run / start["key"]).exists()


def test_retrain_asked_while_a_drop_of_the_same_is_on_its_way_is_not_lost(run: Path) -> None:
    """The drop is asked and not done; the retrain must bring the shard back all the same."""
    dropper, other = Composer(str(run)), Composer(str(run))
    with fault(Fault(DIE_BEFORE, 3)), pytest.raises(Killed):  # after the tombstone and the request
        dropper.request_forget(Selection(ids=(one_of(0),)), "drop")
    plan = other.forgetting.plan
    other.record.refresh()
    assert not isinstance(plan(Selection(ids=(one_of(0),)), "retrain"), str)
    forget(run, [one_of(0)], "retrain", other)
    for request in other.due_requests():
        finish(other, other.forgetting.answer(request), Worker(run))  # type: ignore[arg-type]
    assert other.composed_digest() == composed_of(left_after(one_of(0)))
    assert verify(str(run))["problems"] == []


def test_older_copy_put_back_under_a_warm_composer(run: Path, tmp_path: Path) -> None:
    """It notices that the ledger is another, reads it anew, and forgets again."""
    import shutil

    shutil.copytree(run, tmp_path / "backup")
    warm = Composer(str(run))
    forget(run, [one_of(0)], "retrain", warm)
    shutil.rmtree(run)
    shutil.copytree(tmp_path / "backup", run)
    forget(run, [one_of(1)], "drop", warm)
    for request in warm.due_requests():
        finish(warm, warm.forgetting.answer(request), Worker(run))  # type: ignore[arg-type]
    assert warm.composed_digest() == composed_of(left_after(one_of(0), one_of(1), without=1))
    assert holders(run, key_of(one_of(0))) == []
    assert verify(str(run))["problems"] == []


@pytest.mark.parametrize("modes", [("drop", "retrain"), ("retrain", "drop"), ("resolve", "retrain"), ("drop", "drop")])
def test_the_same_ids_in_two_modes_at_once(run: Path, modes: tuple[str, str]) -> None:
    """Both requests are answered; a retrain among them brings the shard back, two drops leave it out."""
    name = one_of(0)
    first, second = Composer(str(run)), Composer(str(run))
    asleep = Stalled(lambda: first.request_forget(Selection(ids=(name,)), modes[0]), 2)
    two = second.request_forget(Selection(ids=(name,)), modes[1])
    asleep.wake()
    assert asleep.error is None
    for composer, asked in ((second, two), (first, asleep.answer)):
        finish(composer, composer.forgetting.answer(asked["request"]), Worker(run))  # type: ignore[arg-type]
    last = Composer(str(run))
    for request in last.due_requests():
        finish(last, last.forgetting.answer(request), Worker(run))  # type: ignore[arg-type]
    out = set(modes) == {"drop"}
    assert last.composed_digest() == composed_of(left_after(name, without=0 if out else None))
    state = state_of(run)
    assert all(request.forgotten for request in state.requests.values())
    gc(str(run))
    assert verify(str(run))["problems"] == []


def test_request_whose_samples_a_sooner_one_took_fits_the_same_bytes_and_is_right(run: Path) -> None:
    """It drops a shard that has lost them already: the fit gives the very delta that was removed, and must."""
    composer, name = Composer(str(run)), one_of(1)
    composer.request_forget(Selection(ids=(one_of(0), name)), "retrain", time.time() + 3600)
    forget(run, [name], "retrain", composer)
    for request in composer.due_requests(list(composer.snapshot().requests)):
        finish(composer, composer.forgetting.answer(request), Worker(run))  # type: ignore[arg-type]
    assert composer.composed_digest() == composed_of(left_after(one_of(0), name))
    assert verify(str(run))["problems"] == []


@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.parametrize("mode", ["drop", "retrain"])
def test_shard_asked_for_while_another_forgets_one_of_its_samples(run: Path, at: int, mode: str) -> None:
    """By the time the request is committed it means fewer samples than when it was planned."""
    sleeper = Composer(str(run))
    whole = Selection(shards=(0,))
    asleep = Stalled(lambda: sleeper.request_forget(whole, mode), at)
    forget(run, [one_of(0)], "drop")
    asleep.wake()
    assert asleep.error is None
    composer = Composer(str(run))
    for request in composer.due_requests([asleep.answer["request"]]):
        finish(composer, composer.forgetting.answer(request), Worker(run))  # type: ignore[arg-type]
    assert state_of(run).shards[0].samples == 0
    gc(str(run))
    assert verify(str(run))["problems"] == []
    assert Composer(str(run)).composed_digest() == composed_of(left_after(without=0))


@pytest.mark.parametrize("mode", ["drop", "subtract"])
def test_a_command_whose_request_another_one_carries_out_has_the_certificate_too(mode: str, tmp_path: Path) -> None:
    """Another machine's command fits shards. Then it takes everything that is open."""
    run = tmp_path / "run"
    synthetic_run(run, 3, 60, 16)
    elsewhere = Turn("another", "another-machine", 1, time.time(), waits=True)
    Store(str(run)).write(TURN_KEY, json.dumps(elsewhere.to_json()).encode())
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(tr.Run(run).forget, [name_of(1)], mode=mode)
        while not (requests := state_of(run).requests):
            assert not asking.done()
        (request,) = requests
        composer = Composer(str(run))
        finish(composer, composer.forgetting.answer(request))
        certificate = asking.result()
    assert isinstance(certificate, tr.answers.Certificate)
    assert (certificate.request, certificate.samples) == (request, 1)
    assert Store(str(run)).exists(TURN_KEY), "it had no turn"
    assert verify(str(run))["problems"] == []


def test_commands_at_once_leave_what_commands_in_turn_leave(tmp_path: Path) -> None:
    """Each is a process. One carries out what others have asked, and nobody leaves a record of a lost race."""
    crowd, queue = tmp_path / "crowd", tmp_path / "queue"
    synthetic_run(crowd, 3, 60, 16)
    shutil.copytree(crowd, queue)
    names_of_all = [name_of(number) for number in range(4)]
    forget_one = [sys.executable, "-m", "taft_ray.cli", "forget"]
    commands = [
        subprocess.Popen([*forget_one, str(crowd), "--ids", name, "--json"], stdout=subprocess.PIPE)
        for name in names_of_all
    ]
    certificates = [json.loads(command.communicate()[0]) for command in commands]
    assert [command.returncode for command in commands] == [0] * 4
    assert len({one["request"] for one in certificates}) == 4
    for name in names_of_all:
        tr.Run(queue).forget([name])
    assert Composer(str(crowd)).composed_digest() == Composer(str(queue)).composed_digest()
    assert verify(str(crowd))["problems"] == []
    assert gc(str(crowd))["removed"] == []


def test_a_purge_that_another_writer_has_done_already_writes_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    synthetic_run(run, 3, 60, 16)
    late = Composer(str(run))
    request = late.request_forget(Selection(ids=(name_of(1),)), "subtract")["request"]
    Composer(str(run)).resume_forget(request)
    late.forgetting.purge(request)  # on the state that it has known since the request
    assert {str(path.relative_to(run)) for path in files(run, "deltas")} == state_of(run).delta_keys()
