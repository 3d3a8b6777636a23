"""Made-up evidence and verdicts in the format of real ones, for the tests of figures and report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CHARACTERS = ("\n", " ", "$", "a", "b", "e", "h", "o", "r", "t")


class SyntheticRun(NamedTuple):
    arrays: Mapping[str, NDArray[Any]]
    manifest: Mapping[str, Any]
    seed: int


def run(layers: int, seed: int, kind: str = "adam", length: int = 33, last_step: int = 1200) -> SyntheticRun:
    """A run in which a sink forms around step 150; `kind` is adam, sgd (no peak) or relu (no sink)."""
    rng = np.random.default_rng([seed, *kind.encode()])
    step = np.unique(np.concatenate([[0], np.geomspace(1, last_step, 40).astype(int)]))
    points, ids = step.size, len(CHARACTERS) + 1
    noise = 1 + 0.06 * rng.standard_normal((points, 1))
    sink = (
        np.zeros(points) if kind == "relu" else 1 / (1 + ((400 if kind == "sgd" else 150) / np.maximum(step, 1)) ** 2)
    )
    depth = np.linspace(1, 0.7, layers)
    peak = 0.025 if kind == "adam" else 0.001
    per_layer: dict[str, NDArray[Any]] = {
        "attn_start": np.clip((0.12 + 0.85 * sink[:, None] * depth) * noise, 0, 1),
        "dlogit": (9 * sink[:, None] + 0.8 * np.log1p(step)[:, None]) * depth * noise,
        "value_norm_start": (3 + np.minimum(step, 60)[:, None] / 30 - 4.5 * sink[:, None] * depth) * noise,
        "value_ratio": (1 - 0.9 * sink[:, None] * depth) * noise,
        "resid_norm_start": (12 + peak * step[:, None] * depth) * noise,
        "resid_norm_other": (12 + 0.002 * step[:, None] * depth) * noise,
        "resid_norm_content": (11 + 0.003 * step[:, None] * depth) * noise,
    }
    per_layer["peak_ratio"] = per_layer["resid_norm_start"] / per_layer["resid_norm_other"]
    for name in (
        "attn_start_trigger",
        "attn_prev_trigger",
        "sink_logit_std",
        "other_logit_std",
        "sink_logit_mean",
    ):
        per_layer[name] = np.abs(rng.standard_normal((points, layers)))
    by_token = np.repeat(per_layer["dlogit"][:, :, None], ids, axis=2)
    by_token[..., -1] = np.nan
    arrays = {
        **per_layer,
        "dlogit_by_token": by_token,
        "step": step,
        "loss": 2.5 - sink,
        "backcopy": 6 * np.exp(-step / (60 if kind == "adam" else 120)) * noise[:, 0] + 0.01,
        "bigram": 2 * np.exp(-step / 25) * noise[:, 0] + 0.004,
        "baseline": np.float32(0.124),
        **_examples(rng, layers, length, sink[-1]),
    }
    arrays = {
        name: values.astype(np.float32) if values.dtype == np.float64 else values for name, values in arrays.items()
    }
    manifest = {
        "schema": 1,
        "key": f"{kind}{seed:03x}",
        "seed": seed,
        "tokens": [*CHARACTERS, "<s>"],
        "label": kind,
    }
    return SyntheticRun(arrays, manifest, seed)


def _examples(rng: np.random.Generator, layers: int, length: int, sink: float) -> dict[str, NDArray[Any]]:
    start, triggers = len(CHARACTERS), [CHARACTERS.index(character) for character in " et"]
    ordinary = [index for index in range(start) if index not in triggers]
    tokens = rng.choice(ordinary, (2, length))
    tokens[0, 3::4] = rng.choice(triggers, tokens[0, 3::4].size)
    tokens[0, 4::4] = tokens[0, 2:-1:4]
    tokens[:, 0] = start
    is_trigger = np.isin(tokens, triggers)
    attention = np.tril(rng.random((2, layers, length, length)) ** 8)
    attention[..., 0] += 12 * sink * (1 - is_trigger[:, None])
    rows, columns = np.nonzero(is_trigger)
    for row, column in zip(rows, columns, strict=True):
        attention[row, :, column, column - 1] += 12
    attention[..., 0, 0] += 1
    value_norm = 4 + rng.random((2, layers, length))
    value_norm[..., 0] = 4.5 - 4.3 * sink
    resid_norm = 14 + 2 * rng.random((2, layers, length))
    resid_norm[..., 0] = 40
    return {
        "example_tokens": tokens.astype(np.int32),
        "example_triggers": is_trigger,
        "example_attention": attention / attention.sum(-1, keepdims=True),
        "example_value_norm": value_norm,
        "example_resid_norm": resid_norm,
    }


def arms(layers: int, kinds: tuple[str, ...] = ("adam",), seeds: int = 3) -> dict[str, list[SyntheticRun]]:
    return {kind: [run(layers, seed, kind) for seed in range(seeds)] for kind in kinds}


def measure(name: str, values: list[float], low: float | None, high: float | None, **more: Any) -> dict[str, Any]:
    """A measure whose interval is two standard deviations wide on each side, judged like a real one."""
    mean, spread = float(np.mean(values)), 2 * float(np.std(values))
    ends = [mean - spread, mean + spread]
    below, above = -np.inf if low is None else low, np.inf if high is None else high
    inside = True if below <= ends[0] and ends[1] <= above else (False if ends[1] < below or ends[0] > above else None)
    return {
        "name": name,
        "predicted": "as the tolerance",
        "measured": mean,
        "ci95": ends,
        "n": len(values),
        "tolerance": [low, high],
        "inside": inside,
        "values": values,
        **more,
    }


def claim(identifier: str, status: str, **more: Any) -> dict[str, Any]:
    """A claim with one measure inside, one outside and one undecided."""
    return {
        "id": identifier,
        "source": "2410.13835 section 3",
        "statement": f"statement of {identifier}: one layer solves the task within 1000 steps",
        "kind": "dynamics",
        "tier": "quick",
        "status": status,
        "expected": "supported",
        "measures": [
            measure("Backcopy excess risk", [0.012, 0.0135, 0.011], None, 0.02, unit="nats", predicted="below .02"),
            measure("Val ratio of <s>, final", [0.31, 0.34, 0.29], 0.0, 0.15, predicted="falls to 0"),
            measure("R² of Dlogit on ln t", [0.93, 0.97, 0.955], 0.95, None, predicted="log growth"),
        ],
        "control": {
            "setting": "uniform attention forced at every step",
            "expected": "refuted",
            "status": "refuted",
            "measures": [measure("Backcopy excess risk", [4.2, 4.4, 4.1], None, 0.02, unit="nats")],
        },
        "evidence": ["3f2a9c0d11", "88ab31c07e", "c0ffee1234"],
        "arms": {"adam": ["3f2a9c0d11", "88ab31c07e"], "relu": ["c0ffee1234"]},
        "figure": f"figures/{identifier}.png",
        "seconds": 41.7,
        "note": "",
        **more,
    }


def claims(*entries: dict[str, Any]) -> dict[str, Any]:
    """A whole claims.json."""
    return {
        "schema": 1,
        "profile": "quick",
        "versions": {"jaxsink": "0.1.0", "jax": "0.10.2", "python": "3.11.2"},
        "device": "cpu x 2",
        "seconds": 1234.5,
        "created": "2025-01-31T12:00:00+00:00",
        "command": "jaxsink verify BB --profile quick --seeds 3",
        "sizes": ["one layer, d 64, T 32, batch 32, 1,200 steps"],
        "claims": list(entries),
    }
