"""The date until which the key of the id hashes is kept: set, told where people look, and over with the key."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command import here
from folder import kinds, state_of
from pages_of_runs import get, site
from released import copied, toy_forget, trained_toy
from store_faults import DIE_AFTER, DIE_BEFORE, Fault, Killed, Stalled, fault, faults_possible
from toy_run import EVERYONE

import taft_ray as tr
from taft_ray.errors import IntegrityError, UsageError
from taft_ray.pages import certificate_page
from taft_ray.plans.facts import KINDS, read_fact
from taft_ray.plans.retention import RetentionSet, key_is_overdue
from taft_ray.run.record import Record
from taft_ray.storage import canonical_json
from taft_ray.web.reading import name_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_toy(tmp_path_factory.mktemp("retention") / "run")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return copied(trained, tmp_path / "run")


def passed(run: Path) -> None:
    """A date that was set long ago, and is over."""
    record = Record(str(run))
    record.commit(RetentionSet, "retention-set/0", lambda: RetentionSet(time.time() - 60, 0))


def findings(run: Path) -> dict[str, tuple[bool, str]]:
    return {one.check: (one.ok, one.told) for one in tr.doctor(run).findings}


def test_a_run_without_a_date_says_nothing_of_it(run: Path) -> None:
    assert tr.Run(run).status().retention is None
    assert "retention" not in tr.Run(run).status().to_json()
    assert "retention" not in findings(run)
    told = here("retention", run, "--json").json
    assert (told["until"], told["passed"], told["key_destroyed"]) == (None, False, False)
    assert RetentionSet.KIND not in kinds(run)


def test_a_date_is_set_once_changed_and_cleared(run: Path) -> None:
    first = here("retention", run, "--until", "2999-06-30", "--json").json
    assert datetime.fromtimestamp(first["until"], UTC).year == 2999
    assert here("retention", run, "--until", "2999-06-30", "--json").json == first
    assert kinds(run).count(RetentionSet.KIND) == 1
    tr.Run(run).retention("2998-01-01")
    assert tr.Run(run).retention().until != first["until"]
    assert "kept until 2998-01-0" in str(tr.Run(run).status())
    assert findings(run)["retention"][0]
    assert tr.Run(run).retention(clear=True).until is None
    assert kinds(run).count(RetentionSet.KIND) == 3
    assert tr.Run(run).status().retention is None
    assert tr.Run(run).retention(clear=True).until is None, "once more"
    assert kinds(run).count(RetentionSet.KIND) == 3


def test_a_date_that_passed_is_named_until_the_key_is_gone(run: Path) -> None:
    toy_forget(run, [EVERYONE[0]], "retrain")
    passed(run)
    status = tr.Run(run).status()
    assert status.retention is not None
    assert status.retention["passed"]
    assert any(f"taft-ray destroy-key {run} --yes" in one for one in status.to_do)
    assert "was to be kept until" in str(status)
    ok, told = findings(run)["retention"]
    assert not ok
    assert "destroy-key" in told
    assert "destroy-key" in here("retention", run).out
    tr.Run(run).destroy_key()
    status = tr.Run(run).status()
    assert not [one for one in status.to_do if "destroy-key" in one]
    assert "destroyed" in str(status)
    assert findings(run)["retention"] == (True, "the key of the id hashes is destroyed")
    with pytest.raises(UsageError, match="destroyed already"):
        tr.Run(run).retention("2999-01-01")


def test_due_requests_say_that_the_date_passed_and_destroy_nothing(run: Path) -> None:
    assert "to_do" not in here("forget", run, "--due", "--json").json
    passed(run)
    answer = here("forget", run, "--due", "--json")
    assert answer.code == 0, "no request is late"
    assert any(f"taft-ray destroy-key {run} --yes" in one for one in answer.json["to_do"])
    assert "to do: the key of the id hashes" in here("forget", run, "--due").out
    assert not state_of(run).key_destroyed
    tr.Run(run).destroy_key()
    assert "to_do" not in here("forget", run, "--due", "--json").json


def test_page_names_the_date(run: Path) -> None:
    def page() -> str:
        return get(site(run.parent), f"/runs/{name_of(str(run))}").body.decode()

    assert "key of the id hashes" not in page()
    tr.Run(run).retention("2999-06-30T12:00:00+00:00")
    assert "is to be destroyed after" in page()
    assert "30 June 2999" in page()
    tr.Run(run).retention(clear=True)
    record = Record(str(run))
    record.commit(RetentionSet, "retention-set/2", lambda: RetentionSet(time.time() - 60, 2))
    assert "and it is still there" in page()
    tr.Run(run).destroy_key()
    assert "The key of the id hashes is destroyed" in page()


@pytest.mark.parametrize(("kind", "left"), [(DIE_BEFORE, 0), (DIE_AFTER, 1)])
def test_date_whose_setter_died_is_set_whole_or_not_at_all(run: Path, kind: str, left: int) -> None:
    with faults_possible(), fault(Fault(kind, 1)), pytest.raises(Killed):
        tr.Run(run).retention("2999-06-30")
    assert kinds(run).count(RetentionSet.KIND) == left
    tr.Run(run).retention("2999-06-30")
    assert kinds(run).count(RetentionSet.KIND) == 1
    assert tr.Run(run).verify().problems == ()


def test_two_who_set_dates_at_once_set_both_one_after_the_other(run: Path) -> None:
    with faults_possible():
        asleep = Stalled(lambda: tr.Run(run).retention("2998-01-01T00:00:00+00:00"), 1)
        tr.Run(run).retention("2999-01-01T00:00:00+00:00")
        asleep.wake()
    assert asleep.error is None
    years = [datetime.fromtimestamp(one.until or 0, UTC).year for one in state_of(run).retentions]
    assert years == [2999, 2998], "the one that woke up late came second"
    assert [one.number for one in state_of(run).retentions] == [0, 1]
    assert tr.Run(run).verify().problems == ()


@pytest.mark.parametrize("when", ["2001-01-01", "soon", "-3d"])
def test_a_wrong_date_is_refused(run: Path, when: str) -> None:
    here("retention", run, f"--until={when}").complains(2, "--until")
    assert state_of(run).retentions == []


def test_both_options_are_refused(run: Path) -> None:
    here("retention", run, "--until", "30d", "--clear").complains(2, "one of them")


def test_certificates_keep_their_fields_and_their_page_names_the_date(run: Path, tmp_path: Path) -> None:
    other = copied(run, tmp_path / "other")
    tr.Run(run).retention("2999-06-30")
    dated, plain = (toy_forget(where, [EVERYONE[0]], "retrain") for where in (run, other))
    assert dated.keys() == plain.keys()
    assert b"2999" not in canonical_json(dated)
    until = state_of(run).key_kept_until
    assert "30 June 2999" in certificate_page(dated, kept_until=until)
    assert "is to be destroyed after" not in certificate_page(dated)
    tr.Run(run).report()
    page = (run / "reports" / f"certificate-{dated['request']}.html").read_text()
    assert "30 June 2999" in page
    assert tr.Run(run).verify().problems == ()


def test_earlier_versions_refuse_the_new_entry_in_words(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fact = RetentionSet(4e9, 0)
    assert read_fact(fact.KIND, fact.to_json()) == fact
    monkeypatch.delitem(KINDS, fact.KIND)
    with pytest.raises(IntegrityError, match="made by a newer taft_ray"):
        read_fact(fact.KIND, fact.to_json())


def test_a_date_is_over_at_its_second() -> None:
    assert [key_is_overdue(until, False, 10.0) for until in (None, 9.0, 10.0, 11.0)] == [False, True, True, False]
    assert not key_is_overdue(9.0, True, 10.0)
