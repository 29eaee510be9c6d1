"""Which keys of a weights file are a network's, whatever another trainer put before, between or beside them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

# parts of a key that torch's own wrappers put into it, anywhere
_INSIDE = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
_PARALLEL = _INSIDE | {"module"}
# parts that hold a network and are no part of it
HOLDERS = _PARALLEL | {
    "model", "backbone", "encoder", "net", "network", "base_model", "base", "state_dict", "trunk", "vit", "visual",
    "image_encoder", "vision_model", "vision_encoder", "vision_tower", "feature_extractor", "features", "body",
    "student", "teacher", "ema", "model_ema", "ema_model", "state_dict_ema", "averaged_model", "momentum_encoder",
    "target_encoder", "base_encoder", "online_encoder", "image_backbone",
}  # fmt: skip
# each of these is a network of its own: no set is put together from it and another
_VERSIONS = frozenset(
    {
        "student", "teacher", "ema", "model_ema", "ema_model", "state_dict_ema", "averaged_model",
        "momentum_encoder", "target_encoder", "base_encoder", "online_encoder",
    }
)  # fmt: skip
# keys that training leaves in a file and no prediction reads: at the top, or as the last part of a key
_UNUSED_TOP = re.compile(
    r"(optimi[sz]er|opt_state|lr_scheduler|scheduler|scaler|amp_scaler|loss|criterion|decoder\w*|(dino|ibot|mim|proj\w*)"
    r"_?head|(dino|ibot)_?(patch_)?loss|projector|projection_head|predictor|prototypes|mask_token|n_averaged|epoch|"
    r"(global_)?steps?|iter(ation)?s?|((model_)?ema[_.])?(step|decay|num_updates|updates|n_averaged)|"
    r"logit_(scale|bias)|best_\w+|rng_state)(\..*|$)"
)
_UNUSED_END = re.compile(r"(^|\.)(mask_token|num_batches_tracked|relative_position_index|attn_mask|n_averaged)$")


@dataclass(frozen=True)
class KeySet:
    """A whole set of a network's keys in a file. ``files``: the network's key -> the file's key.

    prefix: what stands before each; None where it is not the same everywhere. taken_out: wrappers' names inside of keys.
    """

    files: Mapping[str, str]
    prefix: str | None
    taken_out: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return "no prefix" if self.prefix == "" else f"prefix {self.prefix!r}" if self.prefix else "several prefixes"


def is_unused(key: str) -> bool:
    """Whether training leaves a tensor of this name in a file that no prediction reads."""
    return _UNUSED_TOP.match(key) is not None or _UNUSED_END.search(key) is not None


def whole_sets(names: Collection[str], required: Collection[str], known: Collection[str]) -> list[KeySet]:
    """Every set of file keys that has all the ``required`` keys of a network, by the prefix before them.

    known: required and optional keys. A set with one prefix comes before one that is put together from several.
    """
    for dropped in (frozenset(), _INSIDE, _PARALLEL):
        plain = {_without(name, dropped): name for name in names}
        if len(plain) < len(names):
            continue  # two keys became one: the wrapper's name tells two sets apart
        by_prefix = _by_prefix(plain, set(known))
        whole = [prefix for prefix, found in by_prefix.items() if found.keys() >= set(required)]
        if whole:
            taken = {part for name in names for part in name.split(".") if part in dropped}
            return [
                KeySet({key: plain[by_prefix[prefix][key]] for key in by_prefix[prefix]}, prefix, tuple(sorted(taken)))
                for prefix in sorted(whole)
            ]
        mixed = _mixed(by_prefix, required)
        if mixed is not None:
            return [KeySet({key: plain[name] for key, name in mixed.items()}, None)]
    common = _common_prefix(names)  # one that does not end at a dot
    files = {name.removeprefix(common): name for name in names}
    return (
        [KeySet({key: files[key] for key in files.keys() & set(known)}, common)]
        if files.keys() >= set(required)
        else []
    )


def nearest_prefix(names: Iterable[str], known: Collection[str]) -> tuple[str, int]:
    """The prefix under which most of a network's keys are, and how many; "" where nothing is better than no prefix."""
    found = {prefix: len(keys) for prefix, keys in _by_prefix({name: name for name in names}, set(known)).items()}
    best = max(found, key=lambda prefix: (found[prefix], -len(prefix)), default="")
    return (best, found[best]) if found and found[best] > found.get("", 0) else ("", found.get("", 0))


def holder_prefixes(names: Collection[str], depth: int = 4) -> list[str]:
    """ "", and every chain of known holders that begins a key: under which a file may have names of another kind."""
    found = {""}
    for name in names:
        prefix = ""
        for part in name.split(".")[:-1][:depth]:
            if part not in HOLDERS:
                break
            prefix += f"{part}."
            found.add(prefix)
    return sorted(found)


def _common_prefix(names: Collection[str]) -> str:
    first, last = min(names), max(names)
    return first[: next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _without(name: str, dropped: Collection[str]) -> str:
    return ".".join(part for part in name.split(".") if part not in dropped)


def _by_prefix(names: Mapping[str, str], known: set[str]) -> dict[str, dict[str, str]]:
    """prefix -> the network's key -> the name that is this prefix and this key."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        at = 0
        while True:
            if name[at:] in known:
                found[name[:at]][name[at:]] = name
            at = name.find(".", at) + 1
            if not at:
                break
    return found


def _mixed(by_prefix: Mapping[str, Mapping[str, str]], required: Collection[str]) -> dict[str, str] | None:
    """The keys from several prefixes of known holders, where each is there once; None where one is missing or twice."""
    held = {
        prefix: found
        for prefix, found in by_prefix.items()
        if all(part in HOLDERS - _VERSIONS for part in prefix.split(".")[:-1])
    }
    if len(held) < 2:
        return None
    put: dict[str, str] = {}
    for key in required:
        names = [found[key] for found in held.values() if key in found]
        if len(names) != 1:
            return None
        put[key] = names[0]
    for found in held.values():  # optional ones
        for key, name in found.items():
            put.setdefault(key, name)
    return put
