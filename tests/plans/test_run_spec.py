"""The spec: validated when it is made, unchanged by JSON."""

import json

import pytest

from taft_ray.errors import SpecMismatch, UsageError
from taft_ray.plans.spec import RunSpec


def spec(**changes: object) -> RunSpec:
    return RunSpec(**{"data": "/data", "model": "test_vit", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shards": 0}, "expected shards >= 1, got 0; set --shards"),
        ({"threads": 0}, "set --threads"),
        ({"max_rejected": 1.5}, "set --max-rejected"),
        ({"max_rejected": float("nan")}, "set --max-rejected"),
        ({"constants_gib": -1.0}, "set --constants-gib"),
        ({"constants_gib": float("nan")}, "set --constants-gib"),
        ({"constants_gib": float("inf")}, "set --constants-gib"),
        ({"constants_gib": 1e300}, "set --constants-gib"),
        ({"joint_penalty": 0.0}, "set --joint-penalty"),
        ({"joint_penalty": float("nan")}, "set --joint-penalty"),
        ({"joint_penalty": float("inf")}, "set --joint-penalty"),
        ({"seed": -1}, "set --seed"),
        ({"seed": 2**63}, "set --seed"),
        ({"assignment": "random"}, "expected one of hash"),
        ({"compose": "sum"}, "expected one of gram, mean"),
        ({"weighting": "size"}, "expected one of uniform, samples"),
        ({"cache_dtype": "int8"}, "expected one of float16, bfloat16"),
        ({"precision": "tf32"}, "expected one of bfloat16, float32"),
        ({"device": "tpu"}, "expected one of cpu, cuda"),
        ({"solver": "sgd"}, "expected one of ridge, adam"),
        ({"loss": "ce"}, "not least squares"),
        ({"loss": "hinge", "solver": "adam"}, "hinge"),
        ({"penalty": 0.0}, "ridge needs > 0"),
        ({"penalty": -1.0, "solver": "adam"}, "penalty must be >= 0"),
        ({"epochs": 0, "solver": "adam"}, "must be >= 1"),
        ({"batch_size": 0, "solver": "adam"}, "must be >= 1"),
        ({"slices": 0}, "expected slices >= 1, got 0; set --slices"),
        ({"slices": 4}, "slices=4: solver='ridge' .* use --slices 1, or --solver adam"),
        ({"trainable": "lora"}, "lora"),
        ({"last_blocks": -1}, "last_blocks"),
        ({"last_blocks": "some"}, "last_blocks"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"classes": ("a", "a")}, "different"),
    ],
)
def test_impossible_spec_is_refused_when_it_is_made(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        spec(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"classes": ("a", "b")},
        {"last_blocks": "all"},
        {"solver": "adam", "loss": "ce"},
        {"milestones": (3, 4, 5)},
        {"solver": "adam", "slices": 4},
    ],
)
def test_json_round_trip_changes_nothing(changes: dict[str, object]) -> None:
    made = spec(**changes)
    assert RunSpec.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_field_of_another_version_is_named() -> None:
    with pytest.raises(SpecMismatch, match="invented"):
        RunSpec.from_json({**spec().to_json(), "invented": 1})


def test_empty_shard_weighs_nothing() -> None:
    assert [spec().weight_of(n) for n in (0, 1, 9)] == [0, 1, 1]
    assert [spec(weighting="samples", compose="gram").weight_of(n) for n in (0, 1, 9)] == [0, 1, 9]


def test_fit_and_linearisation_options_come_from_the_spec() -> None:
    made = spec(seed=3, penalty=0.5, last_blocks=2, trainable="norm")
    assert (made.fit_config().seed, made.fit_config().penalty) == (3, 0.5)
    assert made.linearize_options()["last_blocks"] == 2
    assert made.linearize_options()["trainable"] == "norm"


def test_spec_of_an_earlier_run_keeps_its_digest() -> None:
    """Its JSON lacks the fields that came later; ledger, certificates and folders of tokens name it by its digest."""
    written = spec().to_json()
    assert not {"constants_gib", "joint_penalty"} & written.keys()
    assert RunSpec.from_json(written).to_json() == written
    other = spec(constants_gib=1.0).to_json()
    assert other.pop("constants_gib") == 1.0
    assert other == written


def test_orientation_is_left_out_of_the_json_where_it_says_what_held_before() -> None:
    assert "exif_orientation" not in spec().to_json()
    turned = spec(exif_orientation="apply")
    assert turned.to_json()["exif_orientation"] == "apply"
    assert RunSpec.from_json(turned.to_json()) == turned
    with pytest.raises(UsageError, match="expected one of ignore, apply"):
        spec(exif_orientation="upright")
