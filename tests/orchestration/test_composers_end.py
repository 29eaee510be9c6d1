"""A composer leaves when nobody asks, holds no torch, and may die at any time: what is asked of it is asked of the next."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import sample_id

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.storage import Ledger, Store


@pytest.fixture
def run(ridge: tuple[Path, dict[str, Any]], copy_of: Callable[..., Path]) -> str:
    return str(copy_of(ridge[0]))


def is_there(name: str) -> bool:
    import ray

    from taft_ray.orchestration import session

    try:
        ray.get_actor(name, namespace=session.NAMESPACE)
    except ValueError:
        return False
    return True


def wait_until_gone(name: str) -> None:
    until = time.monotonic() + 30
    while is_there(name) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_there(name)


def in_its_process(composer: Any, what: Callable[[Any], Any]) -> Any:
    import ray

    return ray.get(composer.actor.__ray_call__.remote(what))


def test_a_composer_leaves_and_the_next_one_answers_the_same(
    ridge: tuple[Path, dict[str, Any]], run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taft_ray.orchestration import actors

    monkeypatch.setattr(actors, "COMPOSER_IDLE_S", 0.5)
    name = actors.actor_name(run, "composer")
    composer = actors.composer_for(run)
    assert composer.composed_digest() == ridge[1]["composed"]
    wait_until_gone(name)
    assert composer.composed_digest() == ridge[1]["composed"]  # who held the gone one
    wait_until_gone(name)
    assert actors.composer_for(run).composed_digest() == ridge[1]["composed"]


def test_a_composer_that_dies_after_its_commit_loses_nothing(run: str, copy_of: Callable[..., Path]) -> None:
    from taft_ray.orchestration import actors

    undisturbed = Composer(str(copy_of(Path(run), "undisturbed")))
    selection = Selection(ids=(sample_id(0),))
    expected = undisturbed.request_forget(selection, "drop")

    def die_after_the_next_commit(actor: Any) -> None:
        import os

        from taft_ray.storage import Ledger

        append = Ledger.append

        def last(self: Any, *arguments: Any) -> None:
            append(self, *arguments)
            os._exit(1)

        Ledger.append = last  # type: ignore[method-assign]

    composer = actors.composer_for(run)
    died = composer.actor
    in_its_process(composer, die_after_the_next_commit)
    answer = composer.request_forget(selection, "drop")
    assert composer.actor != died
    assert answer == expected
    assert composer.composed_digest() == undisturbed.composed_digest()
    kinds = [entry.kind for entry in Ledger(Store(run)).entries()]
    assert kinds.count("forget-requested") == kinds.count("dropped") == 1


def test_composing_happens_elsewhere_and_survives_that_process(run: str, copy_of: Callable[..., Path]) -> None:
    import ray

    from taft_ray.orchestration import actors, session
    from taft_ray.orchestration.solver import solver_name

    alone = Composer(str(copy_of(Path(run), "alone")))
    composer = actors.composer_for(run)
    for number in (0, 1):
        for one in (alone, composer):
            one.request_forget(Selection(ids=(sample_id(number),)), "drop")
        assert composer.compose()["digest"] == alone.compose()["digest"]
        ray.kill(ray.get_actor(solver_name(), namespace=session.NAMESPACE))

    def loaded(actor: Any) -> set[str]:
        import sys

        return {"torch", "timm", "torchvision"} & set(sys.modules)

    assert in_its_process(composer, loaded) == set()


@pytest.mark.slow  # it waits for silences
def test_a_composer_that_was_stopped_is_ended_and_the_next_one_answers(
    ridge: tuple[Path, dict[str, Any]], run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP: the process is there, and its socket takes calls. One that only takes its time is waited for."""
    import os
    import signal

    from taft_ray.orchestration import actors, standing

    monkeypatch.setattr(standing, "_SILENT_S", 0.2)
    monkeypatch.setattr(standing, "_SIGN_S", 5.0)
    composer = actors.composer_for(run)
    pid = in_its_process(composer, lambda actor: os.getpid())
    assert composer.composed_digest() == ridge[1]["composed"]

    def is_slow(actor: Any) -> None:
        actor.composer.now = lambda: time.sleep(8) or 0.0

    in_its_process(composer, is_slow)
    assert composer.now() == 0.0
    assert in_its_process(composer, lambda actor: os.getpid()) == pid
    os.kill(pid, signal.SIGSTOP)
    assert composer.composed_digest() == ridge[1]["composed"]
    assert in_its_process(composer, lambda actor: os.getpid()) != pid


@pytest.mark.parametrize(("there", "expected"), [(0, 0), (599, 0), (600, 300), (10_000, 300)])
def test_no_more_memory_is_reserved_than_the_head_can_spare(there: int, expected: int) -> None:
    from taft_ray.orchestration.session import reservable

    assert reservable(300, there) == expected


@pytest.mark.slow
def test_a_head_without_memory_to_reserve_composes_all_the_same(run: str, ridge: tuple[Path, dict[str, Any]]) -> None:
    """Ray would let an actor that asks for more than there is wait for ever."""
    code = (
        "import sys, ray\n"
        "from taft_ray.orchestration import actors, session\n"
        "ray.init(address='local', namespace=session.NAMESPACE, include_dashboard=False, log_to_driver=False, "
        "_memory=100 << 20)\n"
        "print('composed', actors.composer_for(sys.argv[1]).compose()['digest'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, run], capture_output=True, text=True, timeout=240)
    assert f"composed {ridge[1]['composed']}" in done.stdout, done.stderr


def test_an_actor_logs_as_the_process_that_started_it(run: str, caplog: pytest.LogCaptureFixture) -> None:
    import logging

    from taft_ray.orchestration import actors

    def handlers(actor: Any) -> list[str]:
        logger = logging.getLogger("taft_ray")
        return [f"{type(handler.formatter).__name__} {logger.level}" for handler in logger.handlers]

    assert in_its_process(actors.composer_for(run), handlers) == []
    with caplog.at_level(logging.INFO, "taft_ray"):
        another = actors.composer_for(f"{run}-another")
        assert in_its_process(another, handlers) == [f"WithContext {logging.INFO}"]
