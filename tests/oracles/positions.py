"""Position encodings in float64 loops."""

import math
from collections.abc import Callable

import numpy as np


def linear(frequency: float, factor: float) -> float:
    return frequency / factor


def llama3(frequency: float, factor: float, low: float, high: float, original: int) -> float:
    """By wavelengths, as the code of Llama 3.1 decides."""
    wavelength = 2 * math.pi / frequency
    if wavelength < original / high:
        return frequency
    if wavelength > original / low:
        return frequency / factor
    smooth = (original / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / factor + smooth * frequency


def rope(
    x: np.ndarray,
    positions: np.ndarray,
    base: float,
    partner: str,
    scaled: Callable[[float], float] = lambda frequency: frequency,
) -> np.ndarray:
    """x [B, T, N, H], positions [B, T]; each pair is a complex number that is multiplied by e^(i angle)."""
    out = np.zeros(x.shape)
    batch, length, heads, size = x.shape
    for b in range(batch):
        for t in range(length):
            for n in range(heads):
                for f in range(size // 2):
                    one, two = (f, f + size // 2) if partner == "half" else (2 * f, 2 * f + 1)
                    angle = float(positions[b, t]) * scaled(1 / base ** (2 * f / size))
                    turned = complex(x[b, t, n, one], x[b, t, n, two]) * complex(math.cos(angle), math.sin(angle))
                    out[b, t, n, one], out[b, t, n, two] = turned.real, turned.imag
    return out


def alibi_slopes(n_heads: int) -> list[float]:
    """By the recursion of the authors' code."""
    if math.log2(n_heads).is_integer():
        start = 2 ** -(2 ** -(math.log2(n_heads) - 3))
        return [start * start**h for h in range(n_heads)]
    power = 2 ** math.floor(math.log2(n_heads))
    return alibi_slopes(power) + alibi_slopes(2 * power)[0::2][: n_heads - power]


def t5_bucket(lag: int, buckets: int, max_distance: int) -> int:
    n, half = max(lag, 0), buckets // 2
    if n < half:
        return n
    # A hair above, for the logarithms of exact powers.
    share = math.log(n / half) / math.log(max_distance / half) + 1e-12
    return min(buckets - 1, half + math.floor(share * (buckets - half)))


def sinusoidal(length: int, size: int) -> np.ndarray:
    out = np.zeros((length, size))
    for p in range(length):
        for f in range(size):
            angle = p / 10000 ** (2 * (f // 2) / size)
            out[p, f] = math.cos(angle) if f % 2 else math.sin(angle)
    return out
