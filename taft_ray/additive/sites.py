"""Sites: the vectors of a network's last blocks that the additive model is linear in.

    output    what leaves a block, or a stage of a network without transformer blocks
    hidden    what enters the second layer of a block's MLP

Each is pooled over tokens:

    class        each class token by itself
    mean         over patches
    quarters     a mean per quarter of the picture
    deviation    the standard deviation over patches

Each pooled vector is layer-normalised by itself: no affine part, no statistics of the data. Vectors of one
block are a group, and each group is projected by itself (`projection.py`).

Legend: n pictures, T tokens, D width, H x W patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from taft_ray.additive.views import check_views_of, view
from taft_ray.errors import UnsupportedModel, UsageError
from taft_ray.tangent.network import units_of
from taft_ray.tangent.units import first_trained

WHERE, POOLS = ("output", "hidden"), ("class", "mean", "quarters", "deviation")
MEMBERS = ("output.class", "output.quarters", "output.deviation")
SIZE = 2048  # numbers per picture
_EPSILON = 1e-6  # of a vector's variance, as timm's layer norms have it


@dataclass(frozen=True, kw_only=True)
class Group:
    """The sites of one block. ``weight`` is the group's share of |a|², ``kept`` its share of the projected numbers."""

    name: str
    members: tuple[str, ...]
    width: int
    kept: int
    weight: float


@dataclass(frozen=True, kw_only=True)
class Sites:
    """The groups of a network, first block first. ``views``: over how many views of a picture vectors are averaged (`views.py`).

    Guarantees: a function of the network's architecture, the picture's size and the options; no weight matters.
    """

    groups: tuple[Group, ...]
    views: int = 1

    @property
    def size(self) -> int:
        """S, the numbers per picture after the projection."""
        return sum(group.kept for group in self.groups)

    @property
    def width(self) -> int:
        """The numbers per picture before the projection."""
        return sum(group.width for group in self.groups)

    def to_json(self) -> list[dict[str, Any]]:
        """The groups, and the number of views where there are several."""
        groups: list[dict[str, Any]] = [asdict(group) | {"members": list(group.members)} for group in self.groups]
        return [*groups, {"views": self.views}] if self.views > 1 else groups

    @classmethod
    def from_json(cls, said: Sequence[Mapping[str, Any]]) -> Sites:
        views = next((one["views"] for one in said if "views" in one), 1)
        return cls(groups=tuple(_group(one) for one in said if "views" not in one), views=views)


def _group(said: Mapping[str, Any]) -> Group:
    return Group(
        name=said["name"],
        members=tuple(said["members"]),
        width=said["width"],
        kept=said["kept"],
        weight=said["weight"],
    )


def sites_of(
    network: nn.Module,
    image_size: int | tuple[int, int],
    *,
    last_blocks: int | str | None = None,
    size: int | None = None,
    members: Sequence[str] = MEMBERS,
    views: int = 1,
) -> Sites:
    """The sites of the last ``last_blocks`` units of ``network``, found in one forward pass of an empty picture.

    last_blocks: a number, "all", or None for `default_blocks`.
    size: S, the numbers per picture after the projection. None: `SIZE`, or all that the sites have where they are fewer.
    members: ``where.pool`` pairs. Those that a network does not have are left out: a class token or an MLP. The mean takes
    the place of quarters where patches have no grid.
    views: of each picture, 1 to 4, and as many passes.
    Raises UnsupportedModel where there are no blocks, UsageError for an impossible option or a ``size`` that exceeds the sites.
    """
    unknown = [member for member in members if member not in {f"{where}.{pool}" for where in WHERE for pool in POOLS}]
    if unknown or not members:
        raise UsageError(f"members={list(members)}: expected some of output|hidden . {'|'.join(POOLS)}")
    units = units_of(network)
    last_blocks = default_blocks(len(units.names)) if last_blocks is None else last_blocks
    names = units.names[first_trained(last_blocks, units) :]
    if not names:
        raise UsageError(f"last_blocks={last_blocks!r}: the additive model needs at least one of the {units.noun}")
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    check_views_of(height, width, views)
    first = next(network.parameters())
    seen: dict[str, dict[str, int]] = {name: {} for name in names}

    def note(name: str, where: str, value: Tensor) -> None:
        layout = _Layout(network, value)
        for pool in layout.pools([member.split(".")[1] for member in members if member.startswith(where)]):
            seen[name][f"{where}.{pool}"] = layout.pooled(value, pool)[0].numel()

    with torch.inference_mode():
        picture = torch.zeros(1, 3, height, width, dtype=first.dtype, device=first.device)
        _watched(network, picture, names, {member.split(".")[0] for member in members}, note)
    empty = [name for name, found in seen.items() if not found]
    if empty:
        raise UnsupportedModel(
            f"{type(network).__name__}: {empty[0]} has none of {', '.join(members)}; name members that it has"
        )
    widths = [sum(found.values()) for found in seen.values()]
    kept = _shares(widths, min(SIZE, sum(widths)) if size is None else size)
    every = sum(len(found) for found in seen.values())
    return Sites(
        groups=tuple(
            Group(name=name, members=tuple(found), width=sum(found.values()), kept=share, weight=len(found) / every)
            for (name, found), share in zip(seen.items(), kept, strict=True)
        ),
        views=views,
    )


def default_blocks(units: int) -> int:
    """7 of 12, rounded up: later blocks serve data like the network's own, earlier ones data that is unlike it."""
    return -(-7 * units // 12)


def site_vectors(
    network: nn.Module, sites: Sites, images: Tensor, through: Callable[[Tensor], object] | None = None
) -> list[Tensor]:
    """Forward passes, one per view: images (n, 3, H, W) -> (n, width) of each group, float32, the mean over the views.

    through: a pass through the blocks of ``network``, in the place of its own, for the picture as it is.

    The pass is the caller's own: its precision, its batch and its threads decide the last bits.

    Guarantees: each member's vectors have together a norm of at most 1 (float32 rounding apart).
    """
    vectors = _vectors_of_one(network, sites, images, through)
    if sites.views == 1:
        return vectors
    for number in range(1, sites.views):
        more = _vectors_of_one(network, sites, view(images, number))
        vectors = [total + one for total, one in zip(vectors, more, strict=True)]
    return [total / sites.views for total in vectors]


def _vectors_of_one(
    network: nn.Module, sites: Sites, images: Tensor, through: Callable[[Tensor], object] | None = None
) -> list[Tensor]:
    found: dict[str, dict[str, Tensor]] = {group.name: {} for group in sites.groups}
    members = {group.name: group.members for group in sites.groups}

    def take(name: str, where: str, value: Tensor) -> None:
        layout = _Layout(network, value)
        for member in members[name]:
            there, pool = member.split(".")
            if there == where:
                found[name][member] = normalised(layout.pooled(value, pool)).flatten(1)

    where = {member.split(".")[0] for group in sites.groups for member in group.members}
    with torch.no_grad():
        _watched(network, images, list(members), where, take, through)
        vectors = []
        for group in sites.groups:
            absent = [member for member in group.members if member not in found[group.name]]
            if absent:
                raise UsageError(f"{group.name} gives no {absent}; these sites belong to another network")
            vectors.append(torch.cat([found[group.name][member] for member in group.members], dim=1))
            if vectors[-1].shape[1] != group.width:
                raise UsageError(
                    f"{group.name} gives {vectors[-1].shape[1]} numbers, expected {group.width}; "
                    "these sites belong to another network"
                )
    return vectors


def normalised(parts: Tensor) -> Tensor:
    """(n, P, D) -> each of the P vectors minus its mean, over its deviation, over sqrt(D P): |all of a picture| <= 1."""
    parts = parts.float()
    centred = parts - parts.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + _EPSILON).sqrt_()
    return centred / (deviation * math.sqrt(parts.shape[-1] * parts.shape[-2]))


class _Layout:
    """Where class tokens and patches lie in what a module returns."""

    def __init__(self, network: nn.Module, value: Tensor) -> None:
        self.classes, self.prefix, self.grid, self.patches = 0, 0, None, 1
        if value.ndim == 4:
            self.channels_first = _channels_first(network, value)
            rows, columns = value.shape[2:] if self.channels_first else value.shape[1:3]
            self.grid, self.patches = (int(rows), int(columns)), int(rows * columns)
        elif value.ndim == 3:
            self.prefix, self.grid = _tokens(network, value.shape[1])
            self.patches = value.shape[1] - self.prefix
            if self.prefix:
                present = [getattr(network, name, None) is not None for name in ("cls_token", "dist_token")]
                self.classes = min(sum(present), self.prefix)
        elif value.ndim != 2:
            raise UnsupportedModel(
                f"{type(network).__name__}: a block returns a tensor of shape {tuple(value.shape)}; expected tokens "
                "(n, T, D), a map of channels or one vector per picture"
            )

    def pools(self, wanted: Sequence[str]) -> list[str]:
        """Those of ``wanted`` that are there; the mean instead of quarters where there is no grid."""
        halves = self.grid is not None and min(self.grid) > 1
        there = ["mean" if pool == "quarters" and not halves else pool for pool in wanted]
        absent = {"class"} if not self.classes else set()
        return [
            pool for pool in dict.fromkeys(there) if pool not in absent and (pool != "deviation" or self.patches > 1)
        ]

    def pooled(self, value: Tensor, pool: str) -> Tensor:
        """(n, P, D) float32: P class tokens, one mean or deviation, or four quarters."""
        if value.ndim == 2:
            return value.float()[:, None]
        if pool == "class":
            return value[:, : self.classes].float()
        if value.ndim == 4:
            patches = value.permute(0, 2, 3, 1) if self.channels_first else value
        else:
            patches = value[:, self.prefix :]
        if pool == "mean":
            return patches.flatten(1, -2).mean(1, keepdim=True, dtype=torch.float32)
        if pool == "deviation":
            return patches.flatten(1, -2).float().std(1, correction=0, keepdim=True)
        assert self.grid is not None  # `pools` gives no quarters without it
        rows, columns = self.grid
        if value.ndim == 3:
            patches = patches.unflatten(1, self.grid)
        top, left = (rows + 1) // 2, (columns + 1) // 2
        corners = [
            patches[:, across, along].mean((1, 2), dtype=torch.float32)
            for across in (slice(None, top), slice(top, None))
            for along in (slice(None, left), slice(left, None))
        ]
        return torch.stack(corners, dim=1)


def _channels_first(network: nn.Module, value: Tensor) -> bool:
    """True for (n, D, H, W): by the sides where they tell, otherwise by what timm says of the network."""
    _, first, second, third = value.shape
    if (first == second) != (second == third):
        return second == third
    return getattr(network, "output_fmt", "NCHW") != "NHWC"


def _tokens(network: nn.Module, count: int) -> tuple[int, tuple[int, int] | None]:
    """(tokens in front of the patches, their grid) of ``count`` tokens."""
    prefix = int(getattr(network, "num_prefix_tokens", 0) or 0)
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    for front in dict.fromkeys((prefix, 0)):
        patches = count - front
        if grid is not None and math.prod(grid) == patches:
            return front, (int(grid[0]), int(grid[1]))
        if patches > 0 and math.isqrt(patches) ** 2 == patches:
            return front, (math.isqrt(patches), math.isqrt(patches))
    return (prefix if count > prefix else 0), None


def _watched(
    network: nn.Module,
    images: Tensor,
    names: Sequence[str],
    where: set[str],
    take: Callable[[str, str, Tensor], None],
    through: Callable[[Tensor], object] | None = None,
) -> None:
    """A forward pass that gives ``take(block, where, tensor)`` what passes the sites of these blocks."""

    def after(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, __, result: take(name, "output", _tensor(result))

    def before(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda _, given: take(name, "hidden", _tensor(given[0]))

    with ExitStack() as hooks:
        for name in names:
            block = network.get_submodule(name)
            if "output" in where:
                hooks.enter_context(block.register_forward_hook(after(name)))
            second = getattr(getattr(block, "mlp", None), "fc2", None)
            if "hidden" in where and isinstance(second, nn.Module):
                hooks.enter_context(second.register_forward_pre_hook(before(name)))
        (through or network)(images)


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise UnsupportedModel(f"a block gives a {type(value).__name__}, expected one tensor")
    return value.detach()


def _shares(widths: Sequence[int], size: int) -> list[int]:
    """``size`` numbers in equal shares, none larger than its width; what narrow groups leave goes to the others in order."""
    if not 1 <= size <= sum(widths):
        raise UsageError(f"size={size}: expected 1..{sum(widths)}, as many numbers as the sites have")
    kept = [0] * len(widths)
    left = size
    while left:
        open_ = [index for index, width in enumerate(widths) if kept[index] < width]
        share, more = divmod(left, len(open_))
        for place, index in enumerate(open_):
            step = min(share + (place < more), widths[index] - kept[index])
            kept[index] += step
            left -= step
    if 0 in kept:
        raise UsageError(
            f"size={size}: expected at least {len(widths)}, a number per block; raise it or take fewer blocks"
        )
    return kept
