"""Made-up evidence and verdicts in the format of real ones, for the tests of figures and report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from jaxsink.training import SGD, Adam, SignSGD
from theory.calculations.base import Calculation
from theory.calculations.descents import RandomDescents
from theory.calculations.flows import RandomFlows
from theory.calculations.minimal import MinimalFlow, MinimalTraining
from theory.calculations.networks import Size, Trajectories
from theory.calculations.peaks import Peaks, PeakSweep
from theory.calculations.random_models import model_arrays
from theory.claims.oq6 import EXPECTED
from theory.claims.wv_attribution import predicted_pull
from theory.costs import CONDITIONS, LONGER
from theory.small_models import LOOKS

CHARACTERS = ("\n", " ", "$", "a", "b", "e", "h", "o", "r", "t")


class SyntheticRun(NamedTuple):
    arrays: Mapping[str, NDArray[Any]]
    manifest: Mapping[str, Any]
    seed: int


def run(layers: int, seed: int, kind: str = "adam", length: int = 33, last_step: int = 1200) -> SyntheticRun:
    """A run in which a sink forms around step 150; `kind` is adam, sgd (no peak), relu (no sink) or any other name."""
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
        **_by_token(rng, layers, ids),
        **{f"no_attention_{name}": np.float64(value) for name, value in (("backcopy", 6.0), ("bigram", 0.01))},
        "no_mlp_bigram": np.float64(2.0),
        "uniform_bigram": np.float64(2.1),
    }
    if layers > 1:
        arrays |= _of_several_blocks(rng, arrays)
    arrays = {
        name: values.astype(np.float32) if values.dtype == np.float64 else values for name, values in arrays.items()
    }
    manifest = {
        "schema": 1,
        "key": f"{kind}{seed:03x}",
        "seed": seed,
        "tokens": [*CHARACTERS, "<s>"],
        "triggers": [CHARACTERS.index(character) for character in " et"],
        "label": kind,
        "spec": {"task": {"copy_probability": {"markov": 0.0, "half_copied": 0.5}.get(kind, 1.0)}},
    }
    return SyntheticRun(arrays, manifest, seed)


def _of_several_blocks(rng: np.random.Generator, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Block 0 makes the peak, in one direction that value maps do not see; gradients point anywhere."""
    points, layers = arrays["peak_ratio"].shape
    found = {}
    for name, cut in (("peak_ratio", 1.0), ("dlogit", 1.0), ("value_ratio", 0.8), ("attn_start", 0.2)):
        found[f"removed_{name}"] = np.repeat(arrays[name][-1:], layers, axis=0)
        found[f"removed_{name}"][0] = cut
    for name in ("backcopy", "bigram"):
        found[f"removed_{name}"] = arrays[name][-1] + 1 / (1 + np.arange(layers))
    for name in ("gradient_start", "gradient_content", "residual_start", "residual_content"):
        found[name] = rng.standard_normal((points, 16))
        found[f"{name}_image"] = np.exp(rng.normal(0, 0.2, (points, layers)))
        found[f"{name}_image"][:, 0] = np.nan
    found["residual_start"] += 3 * np.arange(points)[:, None]
    found["residual_start_image"] /= 4
    return found


def _by_token(rng: np.random.Generator, layers: int, ids: int) -> dict[str, NDArray[Any]]:
    value_norm = 4 + rng.random((layers, ids))
    value_norm[:, 2] = np.nan  # a character that does not occur
    return {
        "attention_by_token": rng.dirichlet(np.ones(ids), layers),
        "value_norm_by_token": value_norm,
        "uniform_by_token": rng.dirichlet(np.ones(ids)),
        "copy_share": np.float64(0.25),
    }


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


CUTS: dict[str, Any] = {
    "free": None,
    "even": {"type": "UniformAttention", "layer": 0, "key": 0, "from_step": 0},
    "norm": {"type": "HoldNorm", "site": "blocks.0.v", "position": 0, "from_step": 1000},
    "elsewhere": {"type": "HoldValue", "site": "blocks.0.attn_out", "position": 0, "from_step": 20},
}


def causes(seeds: int = 2) -> dict[str, list[SyntheticRun]]:
    """Runs with interventions, one arm each, and the free run; those with interventions are shorter."""

    def cut(seed: int, one: Any) -> SyntheticRun:
        made = run(1, seed, "relu" if one else "adam", last_step=1200 if one else 6000)
        return made._replace(manifest={**made.manifest, "spec": {"interventions": [one] if one else []}})

    return {arm: [cut(seed, one) for seed in range(seeds)] for arm, one in CUTS.items()}


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


# Theory: the names, shapes and inputs of real calculations, and paths that go from their start to some end ---------
_SIZE = Size(instances=2)
THEORY: dict[str, Calculation] = {
    "flow_growth": RandomFlows(freeze="beta", values="constant", instances=2),
    "flow_bent": RandomFlows(freeze="beta", instances=2),
    "flow_flat_growth": RandomFlows(freeze="beta", values="constant", mean_value="constant", instances=2),
    "flow_joint": RandomFlows(instances=2),
    "flow_joint_flat": RandomFlows(mean_value="constant", instances=2),
    "flow_joint_sparse": RandomFlows(rows="sparse", instances=2),
    "flow_contexts": RandomFlows(contexts=4, instances=2),
    "flow_drain": RandomFlows(freeze="alpha", logits="constant", instances=2),
    "flow_drain_sparse": RandomFlows(freeze="alpha", logits="constant", rows="sparse", instances=2),
    "descent_adam": RandomDescents(logits="zero", instances=2),
    "descent_sgd": RandomDescents(logits="zero", optimiser=SGD(3e-4, weight_decay=0.0), instances=2),
    "peak_adam": Peaks(Adam(0.3, b2=0.9), steps=300),
    "peak_sgd": Peaks(SGD(0.3, weight_decay=0.0), steps=300),
    "peak_sign": Peaks(SignSGD(0.3, weight_decay=0.0), steps=300),
    "peak_coupled": Peaks(Adam(0.3, b2=0.999), steps=300, coupled=True),
    "peak_sweep": PeakSweep(((0.9, 1e-8), (0.999, 1e-4)), steps=50),
    "path_descent": Trajectories(size=_SIZE, halvings=2),
    "path_adam": Trajectories(size=_SIZE, optimiser=Adam(8e-3, b2=0.9, eps=1e-2), halvings=2),
    "minimal_constant": MinimalFlow(value="constant"),
    "minimal_frozen": MinimalFlow(value="frozen"),
    "minimal_one_context": MinimalFlow(contexts="one"),
    "minimal_many_contexts": MinimalFlow(),
    "minimal_sgd": MinimalTraining(),
    "minimal_adam": MinimalTraining(optimiser=Adam(3e-3)),
}


def theory_run(arm: str, seed: int) -> SyntheticRun:
    """A run of an arm of THEORY."""
    calculation, rng = THEORY[arm], np.random.default_rng([seed, *arm.encode()])
    make: Any = {
        RandomFlows: _flow,
        RandomDescents: _flow,
        Peaks: _peak,
        PeakSweep: _sweep,
        Trajectories: _trajectories,
        MinimalFlow: _minimal_flow,
        MinimalTraining: _minimal_training,
    }[type(calculation)]
    manifest = {"seed": seed, "key": f"{arm}{seed:03x}", "label": calculation.label, "spec": calculation.describe()}
    with jax.enable_x64(True):
        arrays = make(calculation, seed, rng)
    return SyntheticRun({name: np.asarray(values) for name, values in arrays.items()}, manifest, seed)


def theory_arms(names: Iterable[str], seeds: int = 3) -> dict[str, list[SyntheticRun]]:
    return {name: [theory_run(name, seed) for seed in range(seeds)] for name in names}


def _way(start: NDArray[Any], end: NDArray[Any] | float, done: NDArray[Any]) -> NDArray[Any]:
    """[..., P, K] from [..., K] to [..., K], a share `done` [P] of the way."""
    return start[..., None, :] + done[:, None] * (end - start)[..., None, :]


def _flow(calculation: Any, seed: int, rng: np.random.Generator) -> dict[str, Any]:
    models, (alpha, beta) = calculation.drawn(seed)
    if isinstance(calculation, RandomFlows):
        axis, points = {"times": np.logspace(0, 9, 37)}, np.logspace(0, 9, 37)
    else:
        axis, points = {"step": np.arange(0, 1001, 100)}, np.arange(0, 1001, 100)
    done, frozen = 1 - np.exp(-points / 300), getattr(calculation, "freeze", "nothing")
    ends = alpha + (frozen != "alpha") * rng.normal(2, 0.1, alpha.shape), beta * (frozen == "beta")
    return (
        model_arrays(models, (alpha, beta))
        | axis
        | {"alpha": _way(alpha, ends[0], done), "beta": _way(beta, ends[1], done)}
    )


def _peak(calculation: Any, seed: int, rng: np.random.Generator) -> dict[str, Any]:
    start = np.append(10.0, rng.uniform(5, 20, calculation.starts - 1))
    return {"start": start, "peak": start[:, None] + 3 * np.sqrt(np.arange(1, calculation.steps + 1))}


def _sweep(calculation: Any, seed: int, rng: np.random.Generator) -> dict[str, Any]:
    return {"settings": calculation.settings, "final": 20 + rng.random(len(calculation.settings))}


def _trajectories(calculation: Any, seed: int, rng: np.random.Generator) -> dict[str, Any]:
    setting, counts = calculation.size.draw(seed)
    inputs = {name: np.asarray(getattr(setting, name)) for name in ("p", "pi", "xi", "alpha", "beta")}
    rate = calculation.optimiser.rate / 2.0 ** np.arange(calculation.halvings + 1)
    time = calculation.optimiser.rate * np.arange(10, 101, 10)
    paths = {
        f"{name}s": _way(inputs[name][:, None], (inputs[name] + 1)[:, None] + rate[:, None], time / time[-1])
        for name in ("alpha", "beta")
    }
    return inputs | paths | {"counts": counts, "rate": rate, "time": time}


def _minimal_flow(calculation: Any, seed: int, rng: np.random.Generator) -> dict[str, Any]:
    size, queries, samples = 6, 5, 5 if calculation.contexts == "one" else 40
    counts = rng.integers(1, 5, (1 if samples == 5 else samples, size)).repeat(5 if samples == 5 else 1, axis=0)
    alpha, beta = rng.normal(0, 0.3, queries), rng.normal(size=size) * (calculation.value != "constant")
    time = np.logspace(0, calculation.decades, 25)
    done = np.log1p(time)
    return {
        "time": time,
        "alphas": _way(alpha, alpha + 0.5, done),
        "betas": _way(beta, beta - (calculation.value == "joint"), done),
        "alpha": alpha,
        "beta": beta,
        "p": rng.dirichlet(np.ones(size), queries),
        "query": np.arange(samples) % queries,
        "weight": np.full(samples, 1 / samples),
        "total": counts.sum(1),
        "b": 3.0 * counts,
    }


def _minimal_training(calculation: Any, seed: int, rng: np.random.Generator) -> dict[str, Any]:
    step = np.arange(0, 3001, 100)
    alphas = _way(rng.normal(0, 0.3, 5), 4.0, np.log1p(step) / 8)
    return {"step": step, "rate": calculation.optimiser.rate, "alphas": alphas, "betas": alphas}


def passages(seed: int, layers: int = 6, causal: bool = True, row: int | None = None) -> SyntheticRun:
    """A checkpoint whose position 0 is a sink with a drained value and a residual peak, from block 1 on.

    With a controlled row, that is one, too.
    """
    rng = np.random.default_rng(seed)
    shape = (2, layers, 32)
    received, value, resid = 0.03 * rng.random(shape), 1 + rng.random(shape), 5 + rng.random(shape)
    for sink in (0,) if row is None else (0, row):
        received[:, 1:, sink], value[:, 1:, sink], resid[:, 1:, sink] = 0.6, 0.1, 900.0
    tokens = ["<b>", "$x$", " the", "\n", *("word" for _ in range(28))]
    manifest = {"label": "a checkpoint", "tokens": tokens, "causal": causal}
    manifest |= {"rows": [] if row is None else [row], "control": "" if row is None else f"$position_{row}$ alone"}
    return SyntheticRun({"received": received, "value_norm": value, "resid_norm": resid}, manifest, seed)


def first_tokens(seed: int, layers: int = 6) -> SyntheticRun:
    """First tokens whose peak is written by the MLP of block 2."""
    rng = np.random.default_rng(seed)
    norms = 5 + rng.random((3, layers))
    norms[:, 2:] *= 100
    without = {part: np.repeat(norms[:, None], layers, axis=1) for part in ("attention", "mlp")}
    without["mlp"][:, 2] = 5.5
    arrays = {"resid_norm": norms, **{f"without_{part}": of for part, of in without.items()}}
    return SyntheticRun(arrays, {"label": "a $model$ on 3 first tokens", "tokens": ["a", "b", "c"]}, seed)


def pulls(seed: int) -> SyntheticRun:
    """A network in training, read at three steps, whose velocities are what the theory says of values as it reads them.

    With the MLP held values have half their size.
    """
    rng = np.random.default_rng(seed)
    shape, size = (3, 4, 6), len(CHARACTERS) + 1
    arrays: dict[str, NDArray[Any]] = {
        "step": np.array([30, 100, 400]),
        "tokens": rng.integers(0, size, shape[1:]),
        "weight": np.full(shape, 1 / 24),
        "a": rng.uniform(0.1, 0.8, shape),
        **{name: rng.dirichlet(np.ones(size), shape) for name in ("p", "q")},
        **{name: rng.normal(size=(*shape, size)) for name in ("value", "other_mean", "part")},
    }
    arrays |= {f"{name}_mlp_held": arrays[name] / 2 for name in ("value", "other_mean", "part")}
    made = SyntheticRun(arrays, {"label": "a network in training"}, seed)
    return made._replace(arrays=arrays | {name: predicted_pull(made, name) for name in ("velocity", "own", "other")})


def small_model(seed: int, kind: str, scheme: str) -> SyntheticRun:
    """A small model of which the first token is a sink and the controlled token answers the mask control."""
    rng = np.random.default_rng(seed)
    shape = (len(LOOKS), 2, 4, 12)
    received = 0.1 * rng.uniform(0.8, 1.2, shape)
    received[..., 0] = 0.4
    received[list(LOOKS).index("mask"), 1, :, 6] = 0.3
    arrays = {"received": received, "value_norm": rng.uniform(0.8, 1.2, (len(LOOKS), 2, 12)), "even": np.full(12, 0.1)}
    manifest = {"label": f"a small {kind}", "kind": kind, "scheme": scheme, "row": 6}
    return SyntheticRun(arrays, manifest, seed)


def followed(seed: int) -> SyntheticRun:
    """A small language model in which block 1 comes to have a sink, one head of it in the first domain alone."""
    rng, steps, even = np.random.default_rng(seed), np.array([0, 20, 40, 80, 160, 320, 640, 1200]), 0.1
    done = (steps / steps[-1])[:, None]
    ones = rng.uniform(0.95, 1.05, (len(steps), 3))
    on_start = even * ones
    on_start[:, 1] += 0.4 * done[:, 0]
    growth = 1 + done * np.array([1.0, 2.0, 4.0])
    curves = {"attn_start": on_start, "dlogit": np.log1p(steps)[:, None] * ones, "value_ratio": (1 - 0.8 * done) * ones}
    curves |= {"resid_norm_start": 5 * growth, "resid_norm_other": 5 * ones, "peak_ratio": growth}
    mass = rng.uniform(0.09, 0.11, (len(steps), 2, 12, 3, 4)) * (on_start / even)[:, None, None, :, None]
    mass[1:, 1, :, 1, 2] *= 0.3
    arrays = curves | {"step": steps, "sink_mass": mass, "baseline": np.float64(even)}
    manifest = {"label": "3 layers on $prose$ and code; d 64", "domains": ["$prose$", "code"], "start": True}
    return SyntheticRun(arrays, manifest, seed)


def heads(seed: int, active: int | None = None) -> SyntheticRun:
    """Eight passages on which 3 x 4 heads have a sink, but for one block of them that may be active."""
    rng = np.random.default_rng(seed)
    mass = rng.uniform(0.6, 0.7, (8, 3, 4, 2))
    if active is not None:
        mass[:, active] -= 0.5
    words = "prose" if active is None else "$code$"
    manifest = {"label": f"a model on 8 passages of {words}, 32 tokens each"}
    return SyntheticRun({"weight_by_head": mass, "entropy_by_head": 3 * rng.random((8, 3, 4))}, manifest, seed)


def zeroed_heads(seed: int) -> SyntheticRun:
    """Heads of two blocks, of which the more dormant are expected to cost less."""
    rng = np.random.default_rng(seed)
    mass = rng.random((2, 2, 4))
    manifest = {"label": "a $model$ on 2 passages of prose, 32 tokens each; each head of one block in 2 zeroed"}
    return SyntheticRun(
        {"sink_mass": mass, "divergence": 0.1 * np.exp(-6 * mass), "layers": np.array([1, 3])}, manifest, seed
    )


def survey(seed: int) -> SyntheticRun:
    """A survey of all variants, of which one diverged."""
    rng = np.random.default_rng(seed)
    names = list(EXPECTED)
    arrays: dict[str, NDArray[Any]] = {
        name: rng.uniform(0.05, 1.0, size=(len(names), 1)) for name in ("sink_strength", "value_ratio", "peak_ratio")
    }
    arrays |= {name: rng.uniform(0.01, 1.0, size=len(names)) for name in ("backcopy", "bigram")}
    arrays["baseline"] = np.full(len(names), 0.1)
    arrays["sink_strength"][names.index("identity")] = np.nan
    return SyntheticRun(arrays, {"variants": names, "label": "a survey"}, seed)


def costs(seed: int, variant: str) -> SyntheticRun:
    """A network under each condition, some of which cost nothing."""
    rng = np.random.default_rng([seed, *variant.encode()])
    added = 10 ** rng.uniform(-6, 0, len(CONDITIONS))
    added[0], added[-2] = 0, -1e-4
    arrays = {name: 0.04 + added for name in ("all", "late", "backcopy", "bigram")}
    arrays |= {"longer": 0.04 + rng.random(len(LONGER)), "baseline": np.full(len(CONDITIONS), 0.1)}
    arrays |= {name: rng.uniform(0.1, 2, (len(CONDITIONS), 3)) for name in ("sink_strength", "peak_ratio")}
    return SyntheticRun(arrays, {"label": f"{variant} of three layers; d 64"}, seed)
