"""Position encodings: rotations of queries and keys, biases of the scores, and vectors added to the residual stream.

Positions count along the axis of the keys, as in the structured masks.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsink.attention.masks import QueryOffset, _check_count, query_positions

Pairing = Literal["half", "adjacent"]


@dataclass(frozen=True)
class LinearScaling:
    """Every frequency of `rope` divided by `factor`, which is the same as every position divided by it.

    Source: Chen et al. 2023 (arXiv 2306.15595), section 2.2, position interpolation.

    Attributes:
        factor: by how much the context grows, above 0.

    Raises:
        ValueError: if the factor is not a positive finite number.
    """

    factor: float

    def __post_init__(self) -> None:
        _check_positive("factor", self.factor)

    def scaled(self, frequencies: np.ndarray) -> np.ndarray:
        """The frequencies [H/2] in use, in radians per position, from those without scaling."""
        return frequencies / self.factor


@dataclass(frozen=True)
class Llama3Scaling:
    """Low frequencies of `rope` divided by `factor`, high ones as they are, those between interpolated.

    With L = original_max_position: a frequency whose wavelength is above L / low_freq_factor is divided, one below
    L / high_freq_factor stays, and between them f becomes (1 - s) f / factor + s f with
    s = (L / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor).

    Source: the code of Llama 3.1, the models of Grattafiori et al. 2024 (arXiv 2407.21783).

    Attributes:
        factor: of the low frequencies, above 0.
        low_freq_factor: turns that a pair makes within L below which it is divided whole, above 0.
        high_freq_factor: turns above which it stays, above `low_freq_factor`.
        original_max_position: L, the context before the growth, at least 1.

    Raises:
        ValueError: if one of them is out of range.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int

    def __post_init__(self) -> None:
        for name in ("factor", "low_freq_factor", "high_freq_factor"):
            _check_positive(name, getattr(self, name))
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor must be below high_freq_factor={self.high_freq_factor}, but is "
                f"{self.low_freq_factor}; 1.0 and 4.0 are usual"
            )
        _check_count("original_max_position", self.original_max_position, 1)

    def scaled(self, frequencies: np.ndarray) -> np.ndarray:
        """The frequencies [H/2] in use, in radians per position, from those without scaling."""
        turns = self.original_max_position * frequencies / (2.0 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = np.clip(kept, 0.0, 1.0)
        return (1.0 - kept) * frequencies / self.factor + kept * frequencies


RopeScaling = LinearScaling | Llama3Scaling


def rope(
    x: Array,
    positions: Array | np.ndarray,
    base: float = 10000.0,
    pairing: Pairing = "half",
    scaling: RopeScaling | None = None,
) -> Array:
    """Rotary embedding: feature pair f of a vector at position p turns by the angle p * base^(-2 f / H).

    Rotated queries and keys have scores that depend on i - j alone. Angles are float32, or float64 for float64
    vectors: at position p they are off by up to p * 2^-24 radians in float32.

    Source: Su et al. 2021 (arXiv 2104.09864), eq. 34, with adjacent pairs. Llama and GPT-NeoX checkpoints in the
        layout of Hugging Face pair the halves; the two differ by a fixed permutation of the features.

    Args:
        x: queries or keys [B, T, N, H], H even.
        positions: [T] or [B, T], whole or real numbers.
        base: wavelength base, above 1; the longest wavelength is near 2 pi base.
        pairing: "half" turns features (f, f + H/2) together, "adjacent" features (2 f, 2 f + 1).
        scaling: what the frequencies base^(-2 f / H) become, for a context longer than the original one; None leaves
            them as they are.

    Returns:
        [B, T, N, H] in the dtype of `x`.

    Raises:
        ValueError: if H is odd, the positions do not fit, the base is not above 1, or the pairing is unknown.
    """
    if x.ndim != 4 or x.shape[3] % 2:
        raise ValueError(f"x must have shape [B, T, N, H] with H even, but has {x.shape}; reshape or pad the heads")
    positions = jnp.asarray(positions)
    if positions.shape not in (x.shape[1:2], x.shape[:2]):
        raise ValueError(
            f"positions must have shape [T] or [B, T] of x {x.shape}, but has {positions.shape}; give one per vector"
        )
    if pairing not in ("half", "adjacent"):
        raise ValueError(f"pairing must be half or adjacent, but is {pairing!r}; pick that of the checkpoint")
    dtype = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
    plain = _frequencies(x.shape[3], base)
    frequencies = jnp.asarray(plain if scaling is None else scaling.scaled(plain), dtype)
    angle = positions.astype(dtype)[..., None] * frequencies.reshape((1,) * positions.ndim + (-1,))
    angle = angle.reshape(-1, x.shape[1], 1, x.shape[3] // 2)
    wide = x.astype(dtype)
    axis = -2 if pairing == "half" else -1
    pairs = wide.reshape(*x.shape[:3], *((2, -1) if pairing == "half" else (-1, 2)))
    first, second = (jnp.take(pairs, part, axis=axis) for part in (0, 1))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turned = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis=axis)
    return turned.reshape(x.shape).astype(x.dtype)


def _frequencies(size: int, base: float) -> np.ndarray:
    """[H/2] radians per position, base^(-2 f / H)."""
    if not 1.0 < base < math.inf:
        raise ValueError(f"base must be a finite number above 1, but is {base}; 10000.0 is usual")
    return np.asarray(base ** (-np.arange(0, size, 2) / size))


def _check_positive(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be a positive finite number, but is {value!r}")


def alibi_slopes(n_heads: int) -> Array:
    """Slopes of ALiBi, 2^(-8 h / N) for head h = 1..N where N is a power of two.

    Otherwise, with P the largest power of two below N: the P slopes of P heads, then the 1st, 3rd, ... slope of 2 P
    heads until there are N.

    Source: Press, Smith and Lewis 2021 (arXiv 2108.12409), section 3, and its code for other head counts.

    Args:
        n_heads: N, at least 1.

    Returns:
        [N], in JAX's default float dtype.

    Raises:
        ValueError: if `n_heads` is not a whole number of at least 1.
    """
    _check_count("n_heads", n_heads, 1)
    power = 2 ** (int(n_heads).bit_length() - 1)
    slopes = [2.0 ** (-8.0 * h / power) for h in range(1, power + 1)]
    slopes += [2.0 ** (-8.0 * h / (2 * power)) for h in range(1, 2 * power + 1, 2)]
    return jnp.asarray(np.array(slopes[:n_heads]))


def alibi_bias(slopes: Array, queries: int, keys: int, query_offset: QueryOffset = None) -> Array:
    """ALiBi, -slope_h * |i - j|, to be passed as `bias`; the mask is a separate matter.

    Source: Press, Smith and Lewis 2021 (arXiv 2108.12409), section 3, where j <= i.

    Args:
        slopes: [N], see `alibi_slopes`.
        queries: T.
        keys: S.
        query_offset: position of the first query, see `attend`.

    Returns:
        [1, N, T, S], or [B, N, T, S] for an offset per sequence, in the dtype of the slopes.

    Raises:
        ValueError: if `slopes` has not one axis, or the offset is no position.
    """
    if slopes.ndim != 1:
        raise ValueError(f"slopes must have shape [N], but has {slopes.shape}; see alibi_slopes")
    distance = jnp.abs(_lag(queries, keys, query_offset)).astype(slopes.dtype)
    return -slopes[None, :, None, None] * distance[:, None]


def t5_buckets(lag: Array | np.ndarray, buckets: int = 32, max_distance: int = 128) -> Array:
    """Bucket of each distance i - j in causal T5 attention: one each up to buckets / 2, then on a logarithmic scale.

    With h = buckets // 2 and n = max(i - j, 0): n if n < h, else
    min(buckets - 1, h + floor(log(n / h) / log(max_distance / h) * (buckets - h))). The ends of the buckets are found
    with whole numbers, so that no rounding of a logarithm moves a distance.

    Source: Raffel et al. 2019 (arXiv 1910.10683), section 2.1, and its code.

    Args:
        lag: whole numbers i - j of any shape; keys after the query count as distance 0.
        buckets: number of buckets, at least 2.
        max_distance: distance from which all fall into the last bucket, above buckets // 2.

    Returns:
        int32 of the shape of `lag`.

    Raises:
        ValueError: if `buckets` or `max_distance` is too small or not a whole number, or `lag` is not of whole numbers.
    """
    _check_count("buckets", buckets, 2)
    _check_count("max_distance", max_distance, buckets // 2 + 1)
    lag = jnp.asarray(lag)
    if not jnp.issubdtype(lag.dtype, jnp.integer):
        raise ValueError(f"lag must be of whole numbers, but has dtype {lag.dtype}; round the positions first")
    starts = jnp.asarray(_bucket_starts(int(buckets), int(max_distance)), jnp.int32)
    distance = jnp.maximum(lag, 0).astype(jnp.int32)
    return (jnp.searchsorted(starts, distance, side="right") - 1).astype(jnp.int32)


def _bucket_starts(buckets: int, max_distance: int) -> list[int]:
    """Smallest distance of each bucket."""
    exact = buckets // 2
    wide = buckets - exact
    starts = list(range(exact + 1))
    for k in range(1, wide):
        # n is in bucket exact + k or later where (n / exact)^wide >= (max_distance / exact)^k.
        n = starts[-1]
        while n**wide * exact**k < max_distance**k * exact**wide:
            n += 1
        starts.append(n)
    return starts


def t5_bias(
    table: Array, queries: int, keys: int, *, max_distance: int = 128, query_offset: QueryOffset = None
) -> Array:
    """Relative bias of causal T5 attention, table[bucket(i - j), h], to be passed as `bias`.

    T5 itself does not divide its scores by sqrt(H): pass scale=1.0 for its checkpoints.

    Source: Raffel et al. 2019 (arXiv 1910.10683), section 2.1; buckets as in `t5_buckets`.

    Args:
        table: [buckets, N], one learned number per bucket and query head.
        queries: T.
        keys: S.
        max_distance: distance from which all fall into the last bucket.
        query_offset: position of the first query, see `attend`.

    Returns:
        [1, N, T, S], or [B, N, T, S] for an offset per sequence, in the dtype of the table.

    Raises:
        ValueError: if `table` has not two axes, or the sizes are too small.
    """
    if table.ndim != 2:
        raise ValueError(f"table must have shape [buckets, N], but has {table.shape}; give a row per bucket")
    bucket = t5_buckets(_lag(queries, keys, query_offset), table.shape[0], max_distance)
    return jnp.moveaxis(table[bucket], -1, 1)


def sinusoidal(length: int, size: int) -> Array:
    """Sinusoidal position vectors: features 2 f and 2 f + 1 are sin and cos of p * 10000^(-2 f / D).

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5.

    Args:
        length: T, number of positions.
        size: D, even.

    Returns:
        [T, D], in JAX's default float dtype.

    Raises:
        ValueError: if `length` is below 1, or `size` is odd or below 2.
    """
    _check_count("length", length, 1)
    _check_count("size", size, 2)
    if size % 2:
        raise ValueError(f"size must be even, but is {size}; sines and cosines come in pairs")
    angle = np.arange(length)[:, None] * _frequencies(size, 10000.0)[None]
    return jnp.asarray(np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(length, size))


def _lag(queries: int, keys: int, query_offset: QueryOffset) -> Array:
    """int32 [B|1, T, S], position of the query minus that of the key."""
    positions = query_positions(queries, keys, query_offset)
    return positions[:, :, None] - jnp.arange(keys, dtype=jnp.int32)[None, None, :]
