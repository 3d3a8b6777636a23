"""Feature maps of queries and keys: the scores become those of a kernel, s_ij = scale phi(q_i).phi(k_j)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
from jax import Array

from jaxsink.attention.composite import Inputs, Wrapper
from jaxsink.attention.row_map import AttentionDims, Params
from jaxsink.attention.wrappers.arrays import fresh_linear, product


@dataclass(frozen=True)
class EluFeatures(Wrapper):
    """ELU kernel, phi(x) = elu(x) + 1 on queries and keys; its scores are positive.

    Source: Katharopoulos et al. 2020 (arXiv 2006.16236), equation 7; Gu et al. 2024 (arXiv 2410.10781), tables 6
        and 15.
    """

    name: ClassVar[str] = "elu_features"
    per_token: ClassVar[bool] = True

    def before(self, inputs: Inputs, params: Params) -> Inputs:
        dtype = inputs.compute_dtype
        return replace(inputs, q=jax.nn.elu(inputs.q.astype(dtype)) + 1.0, k=jax.nn.elu(inputs.k.astype(dtype)) + 1.0)


@dataclass(frozen=True)
class MLPFeatures(Wrapper):
    """MLP kernel, phi(x) = W_2 relu(W_1 x) on queries and keys, the same for both and for all heads.

    Source: Gu et al. 2024 (arXiv 2410.10781), tables 6 and 15. Its text leaves the initial values open; these are
        uniform between plus and minus 1/sqrt(H).
    """

    name: ClassVar[str] = "mlp_features"
    per_token: ClassVar[bool] = True

    def init(self, key: Array, dims: AttentionDims) -> Params:
        """Return `{"w_1": [H, H], "w_2": [H, H]}`, input axis first."""
        size = dims.head_size
        keys = jax.random.split(key)
        return {name: fresh_linear(k, (size, size), size) for name, k in zip(("w_1", "w_2"), keys, strict=True)}

    def before(self, inputs: Inputs, params: Params) -> Inputs:
        dtype = inputs.compute_dtype

        def features(array: Array) -> Array:
            hidden = jax.nn.relu(product("bthi,ij->bthj", array, params["w_1"], dtype))
            return product("bthi,ij->bthj", hidden, params["w_2"], dtype)

        return replace(inputs, q=features(inputs.q), k=features(inputs.k))
