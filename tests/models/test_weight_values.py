"""Weights that are of another shape, of another kind of number, or no weights at all."""

import gzip
import io
import pickle  # noqa: TID251  # a file that must be recognised and never unpickled
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from taft_ray.errors import StorageError, WeightsMismatch
from taft_ray.models import load_model
from taft_ray.storage import digest_bytes

MODEL, SIZE = "test_vit", 32
DISTILLED = "deit_tiny_distilled_patch16_224"
State = dict[str, torch.Tensor]


@pytest.fixture
def state(state_of: Callable[..., State]) -> State:
    return state_of(MODEL, SIZE)


@pytest.mark.parametrize(
    ("model", "tokens", "words"),
    [
        (DISTILLED, 197, ["14 x 14 patches and 1 token before them", "choose the model"]),
        ("vit_tiny_patch16_224", 198, ["14 x 14 patches and 2 tokens before them"]),
        ("vit_tiny_patch16_224", 99, ["not square"]),
        ("vit_tiny_patch16_224", 196, ["14 x 14 patches and no tokens before them"]),
    ],
)
def test_another_number_of_tokens_has_both_shapes_and_the_way_out(
    model: str, tokens: int, words: list[str], state_of: Callable[..., State], written: Callable[..., str]
) -> None:
    state = state_of(model)
    own = tuple(state["pos_embed"].shape)
    state["pos_embed"] = torch.zeros(1, tokens, own[-1])
    with pytest.raises(WeightsMismatch) as refusal:
        load_model(model, written(state))
    for word in (*words, f"pos_embed (1, {tokens}, {own[-1]}) instead of {own}"):
        assert word in str(refusal.value)


@pytest.mark.parametrize("shape", [(), (192,), (197, 192), (2, 197, 192), (1, 0, 192), (1, 1, 192), (1, 14, 14, 192)])
def test_positions_of_no_shape_at_all(
    shape: tuple[int, ...], state_of: Callable[..., State], written: Callable[..., str]
) -> None:
    state = {**state_of("vit_tiny_patch16_224"), "pos_embed": torch.zeros(shape)}
    with pytest.raises(WeightsMismatch) as refusal:
        load_model("vit_tiny_patch16_224", written(state))
    assert f"pos_embed {shape} instead of (1, 197, 192)" in str(refusal.value)


def test_positions_of_another_square_are_resampled_as_timm_does(
    state_of: Callable[..., State], written: Callable[..., str]
) -> None:
    from timm.layers import resample_abs_pos_embed

    positions = state_of(MODEL)["pos_embed"]
    network = load_model(MODEL, written(state_of(MODEL)), SIZE).network
    expected = resample_abs_pos_embed(positions, new_size=[2, 2], num_prefix_tokens=1)
    assert torch.equal(network.get_parameter("pos_embed"), expected)


def test_tables_of_relative_positions_of_another_size(
    state_of: Callable[..., State], written: Callable[..., str]
) -> None:
    """timm's converter brings a square table to the model's; one that is no table is refused with both shapes."""
    state = state_of("test_maxvit")
    key = "stages.0.blocks.0.attn_grid.attn.rel_pos.relative_position_bias_table"
    rows, heads = state[key].shape
    wider = (int(rows**0.5) + 2) ** 2
    notes = load_model("test_maxvit", written({**state, key: torch.zeros(wider, heads).half()})).notes
    assert any("another picture size" in note for note in notes)
    with pytest.raises(WeightsMismatch) as refusal:
        load_model("test_maxvit", written({**state, key: torch.zeros(7, heads + 1)}))
    assert f"{key} (7, {heads + 1}) instead of ({rows}, {heads})" in str(refusal.value)


def test_another_width_is_refused_with_shapes(state_of: Callable[..., State], written: Callable[..., str]) -> None:
    with pytest.raises(WeightsMismatch, match=r"proj\.bias \(192,\) instead of \(384,\).*choose the --model"):
        load_model("vit_small_patch16_224", written(state_of("vit_tiny_patch16_224")))


def test_patches_of_another_size_are_never_resampled(
    state_of: Callable[..., State], written: Callable[..., str]
) -> None:
    state = state_of("vit_tiny_patch16_224", SIZE) | {"mask_token": torch.zeros(1, 192)}
    state["patch_embed.proj.weight"] = torch.zeros(192, 3, 32, 32)
    with pytest.raises(WeightsMismatch, match=r"\(192, 3, 32, 32\) instead of \(192, 3, 16, 16\)"):
        load_model("vit_tiny_patch16_224", written(state), SIZE)


KEY = "blocks.0.mlp.fc1.weight"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda value: (value * 10).to(torch.int8), "int8"),
        (lambda value: value.to(torch.int64), "int64"),
        (lambda value: value > 0, "bool"),
        (lambda value: value.to(torch.complex64), "complex64"),
        (lambda value: value.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda value: value.to(torch.float8_e5m2), "float8_e5m2"),
        (lambda value: value.index_fill(0, torch.tensor([1]), float("nan")), "NaN"),
        (lambda value: value.index_fill(0, torch.tensor([1]), float("inf")), "infinite"),
        (lambda value: value.double() * 1e200, "infinite"),  # beyond float32
    ],
)
def test_numbers_that_are_no_weights_are_refused_by_key(
    change: Callable[[torch.Tensor], torch.Tensor], word: str, state: State, written: Callable[..., str]
) -> None:
    with pytest.raises(WeightsMismatch) as refusal:
        load_model(MODEL, written({**state, KEY: change(state[KEY])}), SIZE)
    assert KEY in str(refusal.value)
    assert word in str(refusal.value)


def test_quantised_weights_are_refused_by_their_numbers(state: State, written: Callable[..., str]) -> None:
    file = {key: value.to(torch.int8) if "mlp" in key else value for key, value in state.items()}
    file |= {f"{key}_scale": torch.ones(1) for key in state if "mlp" in key}
    with pytest.raises(WeightsMismatch, match=r"int8.*quantised"):
        load_model(MODEL, written(file), SIZE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_cast(dtype: torch.dtype, state: State, written: Callable[..., str]) -> None:
    network = load_model(MODEL, written({key: value.to(dtype) for key, value in state.items()}), SIZE).network
    assert torch.equal(network.get_parameter(KEY), state[KEY].to(dtype).float())


def test_a_damaged_head_is_no_matter(state: State, written: Callable[..., str]) -> None:
    """The classifier is always made anew."""
    load_model(MODEL, written({**state, "head.weight": torch.full((5, 64), float("nan"))}), SIZE)


def test_batch_norm_without_its_counters(state_of: Callable[..., State], written: Callable[..., str]) -> None:
    state = {key: value for key, value in state_of("test_resnet").items() if "num_batches_tracked" not in key}
    network = load_model("test_resnet", written(state)).network
    assert torch.equal(network.state_dict()["bn1.running_mean"], state["bn1.running_mean"])
    with pytest.raises(WeightsMismatch, match=r"missing bn1\.running_var"):
        load_model("test_resnet", written({key: v for key, v in state.items() if key != "bn1.running_var"}))


def _zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 99)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (_zipped("archive/data.pkl", "archive/data/0"), ["pickled PyTorch checkpoint", "save_file"]),
        (pickle.dumps({"a": 1}), ["pickled PyTorch checkpoint", "weights_only=True"]),
        (_zipped("a.txt"), ["zip archive"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", ["Git LFS pointer", "git lfs pull"]),
        (b"<!DOCTYPE html>\n<html>", ["web page", "/resolve/"]),
        (b"\n  <html lang=en>", ["web page"]),
        (b"GGUF\x03\0\0\0" + bytes(99), ["GGUF"]),
        (gzip.compress(b"weights", mtime=0), ["gzip"]),
        (b'{"metadata": {}, "weight_map": {"a": "b"}}', ["several files"]),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), ["HDF5"]),
        (b"some words", ["not a whole safetensors file"]),
        (bytes(64), ["not a whole safetensors file"]),
    ],
)
def test_another_kind_of_file_is_named_with_the_way_out(content: bytes, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(WeightsMismatch) as refusal:
        load_model(MODEL, str(path), SIZE)
    for word in ("not a whole safetensors file", *words):
        assert word in str(refusal.value)


def test_type_of_number_that_torch_lacks_is_named(tmp_path: Path) -> None:
    header = b'{"patch_embed.proj.weight":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}'
    path = tmp_path / "six bits.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(3))
    with pytest.raises(WeightsMismatch, match=r"patch_embed\.proj\.weight: F6_E2M3"):
        load_model(MODEL, str(path), SIZE)


def test_file_without_tensors_and_folder_for_a_file(written: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatch, match="holds no tensors"):
        load_model(MODEL, written({}), SIZE)
    with pytest.raises(StorageError, match="it is a folder"):
        load_model(MODEL, str(tmp_path), SIZE)


def test_digest_is_that_of_the_file(state: State, written: Callable[..., str]) -> None:
    path = written({f"module.{key}": value for key, value in state.items()})
    assert load_model(MODEL, path, SIZE).weights_digest == digest_bytes(Path(path).read_bytes())
