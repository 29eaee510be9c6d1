"""Times of a training are told by one clock, the composer's: those of workers may be wrong by hours."""

from pathlib import Path

from toy_run import SHARDS, fit, make_run

from taft_ray.composer.composer import Composer


def test_times_of_a_training_are_the_composers(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    ticks = iter(range(1000, 2000))
    composer = Composer(str(tmp_path / "run"), clock=lambda: float(next(ticks)))
    composer.begin({}, composer.snapshot().identity)
    began = composer.now()
    assert composer.training_status()["ended"] is None
    for _ in range(SHARDS):
        task = composer.take("lane")
        assert task is not None
        result = fit(composer.record.store, task)
        result["facts"] = {**result["facts"], "started": 5.0, "ended": 6.0}
        assert composer.finished(result)
    told = composer.training_status()
    assert told["ready"] == {"lane": began + 1}
    assert began < told["ready"]["lane"] < told["ended"] < composer.now()
    composer.begin({}, composer.snapshot().identity)
    assert composer.training_status()["ended"] is None
    assert composer.training_status()["ready"] == {}
