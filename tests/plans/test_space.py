"""The space that a sweep varies: read from text, drawn as trials; and the file of the best spec."""

from dataclasses import replace

import pytest

from taft_ray.errors import TaftError, UnsupportedModel, UsageError
from taft_ray.plans.space import Dimension, Trial, default_space, draw, parse_space
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.spec_file import parse_spec_file, write_spec_file
from taft_ray.plans.sweep import Sweep, as_good_as, best_of, forgotten_since, standard_error

BASE = RunSpec(data="d", model="m")


def admit(spec: RunSpec) -> None:
    """Everything."""


def settings(trials: list[Trial]) -> list[dict]:
    return [trial.settings for trial in trials]


def test_text_becomes_values_of_the_specs_types():
    space = parse_space(
        ["solver=ridge,adam", "learning-rate=1e-4..1e-2", "reset=true,False", "last_blocks=0,1,all", "epochs=5, 10"]
    )
    assert space == (
        Dimension("solver", ("ridge", "adam")),
        Dimension("learning_rate", bounds=(1e-4, 1e-2)),
        Dimension("reset", (True, False)),
        Dimension("last_blocks", (0, 1, "all")),
        Dimension("epochs", (5, 10)),
    )
    assert parse_space(map(str, space)) == space


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kappa", "expected NAME=VALUE"),
        ("kappa=", "expected NAME=VALUE"),
        ("momentum=0.9", "a sweep cannot vary it; expected one of learning_rate"),
        ("image_size=32", "make another run"),
        ("shards=2,4", "make another run"),
        ("solver=sgd", "expected one of ridge, adam"),
        ("reset=1", "expected true or false"),
        ("penalty=one", "expected numbers"),
        ("penalty=0,1", "expected more than 0"),
        ("penalty=nan", "expected more than 0"),
        ("last_blocks=-1", "expected at least 0"),
        ("epochs=1.5", "expected whole numbers"),
        ("penalty=1..0.1", "expected LOW < HIGH"),
        ("epochs=1..5", "give the values, with commas"),
    ],
)
def test_wrong_text_says_what_is_expected(text: str, words: str):
    with pytest.raises(UsageError, match=words):
        parse_space([text])


def test_a_name_given_twice():
    with pytest.raises(UsageError, match="given twice"):
        parse_space(["kappa=5", "kappa=15"])


def test_a_trial_depends_on_seed_number_and_names_alone():
    space = parse_space(["penalty=1e-4..1e-1", "kappa=5..30"])
    few, _ = draw(space, BASE, trials=3, seed=7, admit=admit)
    many, _ = draw(tuple(reversed(space)), BASE, trials=9, seed=7, admit=admit)
    assert many[:3] == few
    assert settings(draw(space, BASE, trials=3, seed=8, admit=admit)[0]) != settings(few)
    assert all(1e-4 <= one["penalty"] <= 1e-1 and 5 <= one["kappa"] <= 30 for one in settings(many))


def test_ranges_are_drawn_evenly_in_their_logarithm():
    trials, _ = draw(parse_space(["penalty=1e-4..1e-1"]), BASE, trials=300, seed=0, admit=admit)
    below = sum(one["penalty"] < 10**-2.5 for one in settings(trials))
    assert 120 < below < 180  # half, ±5 standard errors


def test_a_small_space_is_taken_whole_and_once():
    trials, refused = draw(parse_space(["reset=true,false", "kappa=5,15"]), BASE, trials=24, seed=0, admit=admit)
    assert len(trials) == 4
    assert len({str(one) for one in settings(trials)}) == 4
    assert refused == []


def test_what_has_no_meaning_makes_no_difference():
    """A learning rate of ridge, a κ of cross-entropy: such trials are one."""
    space = parse_space(["solver=ridge,adam", "learning_rate=1e-3,1e-2", "loss=rsl,ce", "kappa=5,15"])
    trials, refused = draw(space, BASE, trials=24, seed=0, admit=admit)
    found = settings(trials)
    assert sorted(str(one) for one in found if one["solver"] == "ridge") == [
        "{'solver': 'ridge', 'loss': 'rsl', 'kappa': 15.0}",
        "{'solver': 'ridge', 'loss': 'rsl', 'kappa': 5.0}",
    ]
    assert sum(one["loss"] == "ce" for one in found) == 2  # adam, and one for each learning rate
    assert [reason for _, reason in refused] == [
        "loss='ce' is not least squares; use solver='adam', or loss='rsl' or 'mse'"
    ]


def test_what_is_of_a_composition_is_varied_where_that_is_made():
    space = parse_space(["joint-penalty=1e-4..1e-1"])
    trials, _ = draw(space, replace(BASE, beside="joint"), trials=3, seed=0, admit=admit)
    assert len({trial.spec(BASE).joint_penalty for trial in trials}) == 3
    alone = replace(BASE, compose="joint", beside=None)
    assert draw(space, alone, trials=3, seed=0, admit=admit)[0] == trials
    with pytest.raises(UsageError, match=r"joint_penalty: it is of the composition joint, .* composed by gram"):
        draw(space, BASE, trials=3, seed=0, admit=admit)
    with pytest.raises(UsageError, match=r"epsilon: one model is not composed; use --objective composed"):
        Sweep(space=parse_space(["epsilon=0.1,1"]), objective="whole")


def test_no_valid_trial():
    def nothing(spec: RunSpec) -> None:
        raise UnsupportedModel("has no class token")

    with pytest.raises(UsageError, match=r"no valid trial: all 2 were refused, such as .*has no class token"):
        draw(parse_space(["cls_token=true,false"]), BASE, trials=5, seed=0, admit=nothing)
    with pytest.raises(UsageError, match="is not least squares"):
        draw(parse_space(["solver=ridge", "loss=ce"]), BASE, trials=5, seed=0, admit=admit)
    with pytest.raises(UsageError, match="trials >= 1, got 0"):
        draw(parse_space(["kappa=5"]), BASE, trials=0, seed=0, admit=admit)


def test_the_default_space_has_every_choice_of_the_paper():
    names = {dimension.name for dimension in default_space(BASE)}
    expected = {"solver", "learning_rate", "penalty", "kappa", "alpha", "reset", "cls_token", "last_blocks"}
    assert names == expected
    trials, refused = draw(default_space(BASE), BASE, trials=24, seed=0, admit=admit)
    assert len(trials) == 24
    assert refused == []
    deeper = RunSpec(data="d", model="m", last_blocks="all")
    assert Dimension("last_blocks", (1, "all")) in default_space(deeper)


def test_a_spec_file_brings_back_the_spec():
    spec = RunSpec(data="d", model="m", classes=("a", "b"), last_blocks="all", kappa=7, milestones=(3, 4))
    assert RunSpec(**parse_spec_file(write_spec_file(spec), "best.json")).to_json() == {**spec.to_json(), "kappa": 7.0}
    assert parse_spec_file(b'{"penalty": 1}', "f") == {"penalty": 1.0}  # and one digest with 1.0
    assert parse_spec_file(b'\xef\xbb\xbf{"penalty": 1}', "f") == {"penalty": 1.0}  # as some editors save it


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "f is not JSON"),
        (b"[1]", "expected a JSON object of spec fields, got a list"),
        (b'{"lr": 1}', "lr cannot be set in a spec; expected alpha"),
        (b'{"versions": {}}', "versions cannot be set"),
        (b'{"kappa": "15"}', "kappa='15': expected float"),
        (b'{"kappa": true}', "kappa=True: expected float"),
        (b'{"shards": 2.5}', "shards=2.5: expected int"),
        (b'{"classes": "a,b"}', "classes='a,b': expected a list or null"),
    ],
)
def test_a_spec_file_that_is_none(content: bytes, words: str):
    with pytest.raises(UsageError, match=words):
        parse_spec_file(content, "f")


def result(number: int, accuracy: float, status: str = "finished") -> dict:
    return {"number": number, "accuracy": accuracy, "status": status, "held_out": 100}


def test_the_best_is_the_first_of_the_most_accurate_that_went_all_the_way():
    results = [result(0, 0.99, "stopped"), result(1, 0.8), result(2, 0.9), result(3, 0.9), result(4, 0.86)]
    assert best_of(results)["number"] == 2
    assert standard_error(0.9, 100) == pytest.approx(0.03)
    assert as_good_as(best_of(results), results) == 2


def test_no_finished_trial_says_why():
    with pytest.raises(TaftError, match="none of 2 trials was finished: out of memory"):
        best_of([result(0, 0.5, "stopped"), {"number": 1, "status": "failed", "error": "out of memory"}])


@pytest.mark.parametrize(
    "change", [{"objective": "both"}, {"scheduler": "pbt"}, {"held_out": 0.0}, {"held_out": 1.0}, {"seed": -1}]
)
def test_an_impossible_sweep(change: dict):
    with pytest.raises(UsageError, match=next(iter(change))):
        Sweep(**change)


def test_a_sweeps_name_is_of_what_makes_its_trials_comparable():
    space = parse_space(["kappa=5,15", "penalty=0.1,1"])
    name = Sweep(space=space).name(BASE)
    assert Sweep(space=tuple(reversed(space)), trials=99).name(BASE) == name
    for other in (Sweep(space=space, held_out=0.3), Sweep(space=space[:1]), Sweep(space=space, objective="whole")):
        assert other.name(BASE) != name


def test_what_was_forgotten_since():
    class Entry:
        def __init__(self, number: int, kind: str, **body) -> None:
            self.number, self.kind, self.body, self.time, self.digest = number, kind, body, "", f"digest-{number}"

    def request(number: int, *hashes: str) -> Entry:
        return Entry(number, "forget-requested", request=f"r{number}", mode="drop", hashes=list(hashes), shards=[0])

    entries = [Entry(0, "created", spec="s"), request(1, "a"), request(2, "a", "b", "c"), Entry(3, "key-destroyed")]
    assert forgotten_since(entries, 0, "digest-0") == 3
    assert forgotten_since(entries, 1, "digest-1") == 2
    assert forgotten_since(entries, 2, "digest-2") == 0
    assert forgotten_since(entries, 1, "another ledger's") is None
    assert forgotten_since(entries, 9, "digest-9") is None
