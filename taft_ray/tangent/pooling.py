"""One vector a picture of the tokens that leave a transformer's last block. Legend: B batch, T tokens, D width."""

from __future__ import annotations

from timm.models.vision_transformer import global_pool_nlc
from torch import Tensor, nn

from taft_ray.errors import UnsupportedModel
from taft_ray.tangent.attention_pool import attention_pool_rule
from taft_ray.tangent.rule import Rule, Saving
from taft_ray.tangent.rules import Function, Sequence


class FirstToken(Rule):
    """Class-token pooling: row 0."""

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        return x[:, 0]

    def tangent(self, x_dot, saved, delta):
        return None if x_dot is None else x_dot[:, 0]


class MeanTokens(Rule):
    """Average pooling over the tokens behind the first ``skip``."""

    def __init__(self, name: str, skip: int) -> None:
        super().__init__(name)
        self.skip = skip

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        return x[:, self.skip :].mean(1)

    def tangent(self, x_dot, saved, delta):
        return None if x_dot is None else x_dot[:, self.skip :].mean(1)


class Behind(Rule):
    """The tokens behind the first ``skip``."""

    def __init__(self, name: str, skip: int) -> None:
        super().__init__(name)
        self.skip = skip

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        return x[:, self.skip :]

    def tangent(self, x_dot, saved, delta):
        return None if x_dot is None else x_dot[:, self.skip :]


def pooling_rule(kind: str, *, skip: int, attention_pool: nn.Module | None, attention_skip: int) -> Rule:
    """timm's ``global_pool``, over the tokens behind the first ``skip``; attention pooling behind ``attention_skip``."""
    if attention_pool is not None:
        pool = attention_pool_rule("attn_pool", attention_pool)
        return Sequence("", [Behind("attn_pool_tokens", attention_skip), pool])
    if kind == "token":
        return FirstToken("pool")
    if kind == "avg":
        return MeanTokens("pool", skip)
    if kind in ("max", "avgmax"):
        return Function("pool", lambda x: global_pool_nlc(x, pool_type=kind, num_prefix_tokens=skip))
    raise UnsupportedModel(
        f"global_pool={kind!r} gives no single vector a picture; create the model with global_pool='token' or 'avg'"
    )
