"""Learned key and value biases: one more slot that every query sees, or one more value that every output gets."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxsink.attention.call import Aux
from jaxsink.attention.composite import Inputs, Trait, Wrapper
from jaxsink.attention.row_map import AttentionDims, Mass, Params, Properties, Streaming
from jaxsink.attention.wrappers.arrays import fresh_normal, per_query_head, product, value_size

_DEVIATION = 0.02  # of the initial values, in the code of both sources


@dataclass(frozen=True)
class KeyBias(Wrapper):
    """Key bias, one more key k*_h that every query sees and that owns no value: logit a_i = scale q_i.k*_h.

    The logit is capped as scores are, gets no bias and is not masked. A row that sees no key gives 0. Put it innermost
    for a slot that meets the queries as the row map does; k* is used as it is.

    Source: Gu et al. 2024 (arXiv 2410.10781), section 7.3, K biases.
    """

    name: ClassVar[str] = "key_bias"
    per_token: ClassVar[bool] = True

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"k": [K, H]}`, normal of standard deviation 0.02."""
        return {"k": fresh_normal(key, (dims.key_heads, dims.head_size), _DEVIATION)}

    def changed(self, properties: Properties) -> Properties:
        if not properties.has_total:
            raise ValueError(
                f"{type(self).__name__} must be put around a row map with a total, which its slot can enter, but this "
                "one declares has_total=False; use one of the softmax family, or ValueBias"
            )
        return replace(
            properties,
            streaming=Streaming.ONLINE_WITH_NULL,
            mass=Mass.AT_MOST_ONE,
            shift_invariant=False,
            null_column=True,
        )

    def before(self, inputs: Inputs, params: Params) -> Inputs:
        slot = self.logit(inputs, params)
        if inputs.null_logit is not None:
            given = jnp.broadcast_to(inputs.null_logit.astype(slot.dtype), slot.shape)
            slot = jnp.logaddexp(slot, given)
        return replace(inputs, null_logit=slot)

    def logit(self, inputs: Inputs, params: Params) -> Array:
        """Return a_i [B, N, T]."""
        dtype, heads = inputs.compute_dtype, inputs.q.shape[2]
        logit = product("btnh,nh->bnt", inputs.q, per_query_head(params["k"], 0, heads), dtype)
        logit = logit * jnp.asarray(inputs.scale, dtype)
        return logit if inputs.softcap is None else inputs.softcap * jnp.tanh(logit / inputs.softcap)


@dataclass(frozen=True)
class KeyValueBias(KeyBias):
    """Key and value bias, one more key k*_h with a value v*_h that every query sees: o_i + w*_i v*_h.

    w*_i = exp(a_i - total_i) is the weight of the slot with the logit of `KeyBias`. A row that sees no key gives v*_h.

    Source: Sun et al. 2024 (arXiv 2402.17762), equation 3; Gu et al. 2024 (arXiv 2410.10781), section 7.3, KV biases.
    """

    name: ClassVar[str] = "key_value_bias"
    reads_aux: ClassVar[frozenset[str]] = frozenset({"total"})
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.SLOT_VALUE})

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"k": [K, H], "v": [K, Hv]}`, normal of standard deviation 0.02."""
        key_k, key_v = jax.random.split(key)
        value = fresh_normal(key_v, (dims.key_heads, value_size(dims)), _DEVIATION)
        return {**super().init(key_k, dims), "v": value}

    def after(self, out: Array, inputs: Inputs, aux: Aux, params: Params) -> Array:
        assert aux.total is not None  # asked for in reads_aux
        share = jnp.exp(self.logit(inputs, params) - aux.total)
        value = per_query_head(params["v"], 0, out.shape[2])
        return out + product("bnt,nh->btnh", share, value, inputs.compute_dtype)


@dataclass(frozen=True)
class ValueBias(Wrapper):
    """Value bias, o_i + v*_h whatever the weights; a row that sees no key gives v*_h.

    Source: Gu et al. 2024 (arXiv 2410.10781), section 7.3, V biases.
    """

    name: ClassVar[str] = "value_bias"
    per_token: ClassVar[bool] = True
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.SLOT_VALUE})

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"v": [K, Hv]}`, normal of standard deviation 0.02."""
        return {"v": fresh_normal(key, (dims.key_heads, value_size(dims)), _DEVIATION)}

    def after(self, out: Array, inputs: Inputs, aux: Aux, params: Params) -> Array:
        return out + per_query_head(params["v"], 0, out.shape[2]).astype(out.dtype)[None, None]
