"""Weights whose keys another trainer wrote: what is taken off, what is left out, and what is refused."""

import logging
from collections.abc import Callable

import pytest
import torch

from taft_ray.errors import WeightsMismatch
from taft_ray.models import load_model

MODEL, SIZE = "test_vit", 32
State = dict[str, torch.Tensor]


@pytest.fixture
def state(state_of: Callable[..., State]) -> State:
    return state_of(MODEL, SIZE)


def _under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def _is_loaded(path: str, state: State, but: str = "head.") -> tuple[str, ...]:
    """The notes, once every parameter but the head's has its bits."""
    loaded = load_model(MODEL, path, SIZE)
    own = loaded.network.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items() if not key.startswith(but))
    return loaded.notes


def test_plain_weights_are_loaded_without_a_word(state: State, written: Callable[..., str]) -> None:
    assert _is_loaded(written(state), state, but="none") == ()


@pytest.mark.parametrize(
    "prefix",
    [
        "module.", "model.", "_orig_mod.", "backbone.", "encoder.", "student.", "teacher.", "state_dict.", "ema.",
        "module._orig_mod.", "_orig_mod.module.", "state_dict.model.backbone.", "teacher.backbone.", "visual.trunk.",
        "pixel_encoder.timm_model.",
        "module_",
    ],
)  # fmt: skip
def test_prefix_is_taken_off_and_said(
    prefix: str, state: State, written: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        (note,) = _is_loaded(written(_under(prefix, state)), state, but="none")
    assert f"the prefix '{prefix}' was taken off {len(state)} keys" in note
    assert note in caplog.messages


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: key.replace("blocks.0.", "blocks.0._orig_mod."),
        lambda key: key.replace(".attn.", "._fsdp_wrapped_module.attn."),
        lambda key: "module." + key.replace(".mlp.", "._checkpoint_wrapped_module.mlp."),
        lambda key: key.replace("blocks.1.", "blocks.1.module."),
        lambda key: f"module.{key}" if key.startswith("blocks.") else key,
        lambda key: f"backbone.{key}" if "blocks" in key else f"encoder.{key}",
    ],
    ids=["compiled block", "fsdp", "checkpointed mlp", "parallel block", "some keys only", "two holders"],
)
def test_wrappers_inside_of_keys(rename: Callable[[str], str], state: State, written: Callable[..., str]) -> None:
    notes = _is_loaded(written({rename(key): value for key, value in state.items()}), state)
    assert notes


def test_head_beside_the_prefix_is_loaded(state: State, written: Callable[..., str]) -> None:
    file = {key if key.startswith("head.") else f"backbone.{key}": value for key, value in state.items()}
    _is_loaded(written(file), state, but="none")


EXTRAS = {
    "mask_token": (1, 64),
    "n_averaged": (),
    "ema.decay": (),
    "model_ema.num_updates": (),
    "blocks.0.norm1.num_batches_tracked": (),
    "optimizer.state.0.exp_avg": (3, 3),
    "epoch": (1,),
    "global_step": (),
    "decoder_embed.weight": (4, 4),
    "decoder_blocks.0.norm1.weight": (4,),
    "dino_head.mlp.0.weight": (4, 4),
    "logit_scale": (),
}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_only_training_needs_is_left_out_and_said(prefix: str, state: State, written: Callable[..., str]) -> None:
    extra = {prefix + key: torch.zeros(shape) for key, shape in EXTRAS.items()}
    notes = _is_loaded(written(_under(prefix, state) | extra), state)
    assert any(f"no use for {len(EXTRAS)} keys" in note and "and 9 more" in note for note in notes), notes


def test_key_of_no_known_use_is_refused(state: State, written: Callable[..., str]) -> None:
    for prefix in ("", "module."):
        extra = {f"{prefix}blocks.0.adapter.weight": torch.zeros(3)}
        with pytest.raises(WeightsMismatch, match=r"unexpected blocks\.0\.adapter\.weight"):
            load_model(MODEL, written(_under(prefix, state) | extra), SIZE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("model.", "model_ema."),
        ("", "ema."),
        ("module.", "ema_model.module."),
        ("student.backbone.", "teacher.backbone."),
        ("base_encoder.", "momentum_encoder."),
        ("", "_orig_mod."),
    ],
)
def test_two_sets_are_refused_by_both_names(one: str, other: str, state: State, written: Callable[..., str]) -> None:
    average = {key: value * 0.5 for key, value in state.items()}
    with pytest.raises(WeightsMismatch) as refusal:
        load_model(MODEL, written(_under(one, state) | _under(other, average)), SIZE)
    for name in (one, other):
        assert (f"prefix {name!r}" if name else "no prefix") in str(refusal.value)
    assert "save_file" in str(refusal.value)


def test_two_sets_of_the_same_numbers_are_one(state: State, written: Callable[..., str]) -> None:
    notes = _is_loaded(written(_under("model.", state) | _under("model_ema.", state)), state)
    assert any("model_ema." in note for note in notes)


def test_a_teacher_of_another_size_is_left_out(
    state: State, state_of: Callable[..., State], written: Callable[..., str]
) -> None:
    teacher = _under("teacher.", state_of("vit_tiny_patch16_224", SIZE))
    notes = _is_loaded(written(_under("student.", state) | teacher), state)
    assert any("'student.'" in note for note in notes)


def test_half_a_set_is_refused_with_its_prefix(state: State, written: Callable[..., str]) -> None:
    file = {f"module.{key}": value for key, value in state.items() if key != "blocks.0.norm1.weight"}
    with pytest.raises(WeightsMismatch, match=r"behind the prefix 'module\.': missing blocks\.0\.norm1\.weight;"):
        load_model(MODEL, written(file), SIZE)


def test_keys_half_of_an_average_are_never_mixed(state: State, written: Callable[..., str]) -> None:
    file = {f"ema.{key}" if "blocks" in key else f"model.{key}": value for key, value in state.items()}
    with pytest.raises(WeightsMismatch):
        load_model(MODEL, written(file), SIZE)


def test_weights_named_by_transformers_are_told(written: Callable[..., str]) -> None:
    file = {"vit.encoder.layer.0.attention.attention.query.weight": torch.zeros(4, 4)}
    with pytest.raises(WeightsMismatch, match="named as transformers names them"):
        load_model(MODEL, written(file), SIZE)


# names of the models' authors, which timm's own converter brings to timm's


def test_meta_names_of_dinov2_with_registers(written: Callable[..., str], state_of: Callable[..., State]) -> None:
    """Registers, SwiGLU of one matrix and mask_token, as Meta publishes them; the class token has its own position."""
    model = "vit_small_patch14_reg4_dinov2"
    own = state_of(model, 28)
    meta = {key: value for key, value in own.items() if key != "reg_token"}
    meta |= {
        "register_tokens": own["reg_token"],
        "mask_token": torch.zeros(1, 384),
        "pos_embed": torch.cat([torch.full((1, 1, 384), 0.25), own["pos_embed"]], 1),
    }
    for prefix in ("", "teacher.backbone."):
        loaded = load_model(model, written(_under(prefix, meta)), 28)
        got = loaded.network.state_dict()
        assert torch.equal(got["reg_token"], own["reg_token"])
        assert torch.equal(got["cls_token"], own["cls_token"] + 0.25)
        assert torch.equal(got["pos_embed"], own["pos_embed"])
        assert any("timm's own converter" in note for note in loaded.notes)
    with pytest.raises(WeightsMismatch):  # registers that the model does not have are not dropped in silence
        load_model("vit_small_patch14_dinov2", written(meta), 28)


def test_openai_names_of_clip(written: Callable[..., str], state_of: Callable[..., State]) -> None:
    model = "vit_tiny_patch16_224"
    own = state_of(model, 32)
    named = {}
    for key, value in own.items():
        for ours, theirs in (
            ("patch_embed.proj", "conv1"), ("pos_embed", "positional_embedding"), ("blocks.", "transformer.resblocks."),
            ("norm.", "ln_post."), ("attn.qkv.", "attn.in_proj_"), ("attn.proj", "attn.out_proj"),
            ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"), ("norm1", "ln_1"), ("norm2", "ln_2"),
            ("cls_token", "class_embedding"),
        ):  # fmt: skip
            if not (ours == "norm." and key.startswith("blocks.")):
                key = key.replace(ours, theirs)
        named[f"visual.{key}"] = (
            value[0] if key in ("positional_embedding",) else value.flatten() if key == "class_embedding" else value
        )
    named = {key: value for key, value in named.items() if "head" not in key}
    loaded = load_model(model, written(named | {"text_projection": torch.zeros(3)}), 32)
    got = loaded.network.state_dict()
    assert all(torch.equal(got[key], own[key]) for key in own if not key.startswith("head."))
