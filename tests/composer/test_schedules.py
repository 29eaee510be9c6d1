"""Random schedules of several composers, late workers, crashes, sleepers, restored copies: nothing lost, nothing by hand."""

import pytest
from damaged_schedule import DamagedSchedule
from hypothesis import HealthCheck, settings
from schedule import Schedule
from two_tier_schedule import DamagedTwoTierSchedule, TwoTierSchedule

FEW = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


class TestSchedules(Schedule.TestCase):
    settings = FEW


class TestDamagedSchedules(DamagedSchedule.TestCase):
    settings = FEW


@pytest.mark.slow
class TestDamagedTwoTierSchedules(DamagedTwoTierSchedule.TestCase):
    settings = settings(FEW, max_examples=15)


@pytest.mark.slow
class TestManyTwoTierSchedules(TwoTierSchedule.TestCase):
    settings = settings(FEW, max_examples=400, stateful_step_count=40, derandomize=False)


@pytest.mark.slow
class TestManyDamagedTwoTierSchedules(DamagedTwoTierSchedule.TestCase):
    settings = settings(FEW, max_examples=400, stateful_step_count=40, derandomize=False)


@pytest.mark.slow
class TestManyDamagedSchedules(DamagedSchedule.TestCase):
    settings = settings(FEW, max_examples=400, stateful_step_count=40, derandomize=False)


@pytest.mark.slow
class TestManySchedules(Schedule.TestCase):
    settings = settings(FEW, max_examples=400, stateful_step_count=40, derandomize=False)
