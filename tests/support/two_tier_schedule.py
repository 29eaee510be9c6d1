"""The random schedules once more, of a run of two tiers, with subtractions."""

from typing import Any

from damaged_schedule import DamagedSchedule
from folder import state_of
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from schedule import Schedule, composers, faults, selections
from toy_run import composed_of, sums_digest

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.plans.state import SUBTRACT
from taft_ray.storage import Store


class _Subtracting(Schedule):
    two_tiers = True

    @rule(which=composers, selection=selections, later=st.booleans(), planned=faults)
    def subtract(self, which: int, selection: Selection, later: bool, planned: Any) -> None:
        self.ask_to_forget(which, selection, SUBTRACT, later, planned)

    @invariant()
    def every_record_that_the_ledger_names_is_there(self) -> None:
        store, state = Store(str(self.run)), state_of(self.run)
        wanted = [str(shard.record.key) for shard in state.in_tier(by_records=True) if shard.record is not None]
        assert store.remaining(sorted(wanted)) == sorted(wanted)

    def check_models(self, composer: Composer, members: list[set[str]]) -> None:
        state = composer.snapshot()
        assert state.in_tier(by_records=True) == state.in_model, "a shard is in both tiers or in none"
        assert composer.composed_digest() == sums_digest(set().union(*members))
        assert composer.composition.computed_digest() == sums_digest(set().union(*members))
        assert composer.composition.computed_digest("mean") == composed_of(members)


class TwoTierSchedule(_Subtracting):
    """Subtractions beside all else."""


class DamagedTwoTierSchedule(_Subtracting, DamagedSchedule):
    """The same with damage."""
