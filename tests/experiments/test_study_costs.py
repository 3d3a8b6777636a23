"""The study of costs: when training stops, and what each condition does to a trained network."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.studies import costs, producer_of
from jaxsink import control
from jaxsink.models import TransformerConfig
from jaxsink.probing import Set, round_to_nearest, run
from jaxsink.probing.rounding import Per
from jaxsink.training import AdamW, DirichletChain, TaskConfig, TrainConfig, seed_keys
from theory.costs import CONDITIONS, LONGER, Costs, cost, longer_cost, risk

T, LAYERS = 8, 2
RUN = TrainConfig(
    task=TaskConfig(chain=DirichletChain(6, 0.7, 1), n_triggers=2),
    model=TransformerConfig(n_layers=LAYERS, d_model=8, positions="rope"),
    optimiser=AdamW(rate=1e-2),
    length=T,
    batch=16,
    steps=60,
    chunk_steps=20,
    probe_batch=32,
)
SPEC = Costs(RUN, target=1e-6)
STREAM = [f"blocks.{i}.resid_post" for i in range(LAYERS)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> Any:
    trainer, shares = costs.Trainer(SPEC, 1), []
    (product,) = trainer.run([3], tmp_path_factory.mktemp("costs"), shares.append)
    assert sum(shares) == pytest.approx(1)
    return trainer, product


def stopped(trainer: costs.Trainer, target: float, path: Path) -> int:
    shares: list[float] = []
    trainer.spec = replace(SPEC, target=target)
    (product,) = trainer.run([3], path, shares.append)
    trainer.spec = SPEC
    assert sum(shares) == pytest.approx(1)
    return int(product.arrays["steps"])


def test_training_stops_at_the_target_or_at_the_last_step(made: Any, tmp_path: Path) -> None:
    trainer, product = made
    assert producer_of(SPEC) is costs
    assert int(product.arrays["steps"]) == RUN.steps
    assert stopped(trainer, 100.0, tmp_path) == RUN.chunk_steps


@partial(jax.jit, static_argnums=0)
def looked(model: Any, params: Any, tokens: Any, edits: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Logits and streams; compiled once for all edits of the same sites."""
    return run(model, params, tokens, capture=STREAM, edits=edits)


def by_hand(trainer: costs.Trainer, params: Any, tokens: Any, edits: Any, first: int) -> float:
    """Excess risk from a position on, by a loop over positions."""
    model = trainer.model.clone(max_length=tokens.shape[1])
    logits, _ = looked(model, params, tokens, edits)
    logits, law = np.asarray(logits, np.float64), np.asarray(trainer.task.law(tokens), np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    terms = [
        sum(p * np.log(p / q) for p, q in zip(law[b, t], chances[b, t], strict=True) if p > 0)
        for b in range(len(tokens))
        for t in range(first, tokens.shape[1])
    ]
    return float(np.mean(terms))


def test_conditions_are_what_their_names_say(made: Any) -> None:
    trainer, product = made
    key = seed_keys(3).probe
    tokens = trainer.task.sample(key, RUN.probe_batch, T)[:, :-1]
    matrices = jax.tree.map(lambda x: round_to_nearest(x, 7) if x.ndim > 1 else x, product.params)
    hidden = {
        name: control.restrict_rows(trainer.model, range(LAYERS), range(T // 2, T), control.all_but(k), T)
        for k, name in enumerate(("evicted_0", "evicted_1"))
    }
    expect = partial(by_hand, trainer)
    query = np.arange(T)[:, None]
    before = Set(-jnp.inf, (query >= T // 2) & (np.arange(T) == query - 1))
    hidden["evicted_previous"] = {f"blocks.{i}.attn_scores": before for i in range(LAYERS)}
    found = {
        "free": expect(product.params, tokens, {}, 1),
        "weights_4": expect(matrices, tokens, {}, 1),
        "other_text": expect(product.params, trainer.other.sample(key, RUN.probe_batch, T)[:, :-1], {}, 1),
    }
    # float32 risks of 200 positions.
    for name, value in found.items():
        assert risk(product, name) == pytest.approx(value, abs=1e-5), name
    assert len({round(value, 6) for value in found.values()}) == len(found)
    for name, edits in hidden.items():
        assert risk(product, name, "late") == pytest.approx(expect(product.params, tokens, edits, T // 2), abs=1e-5)
        assert abs(cost(product, name, "late")) > 1e-5
    for times in LONGER:
        late = expect(product.params, trainer.texts(jax.random.fold_in(key, times), times), {}, times * T // 2) - risk(
            product, "free", "late"
        )
        assert longer_cost(product, times) == pytest.approx(late, abs=2e-5)


@pytest.mark.parametrize("name", [name for name in CONDITIONS if name.startswith("residual")])
def test_the_residual_stream_is_rounded_as_the_name_says(made: Any, name: str) -> None:
    trainer, product = made
    tokens = trainer.texts(seed_keys(3).probe)
    edits = costs.edits(name, LAYERS, T)
    assert set(edits) > set(STREAM)
    as_it_was = costs.edits("free", LAYERS, T)
    # What is rounded last sees what is rounded before it.
    only_first = {site: as_it_was[site] if site == STREAM[1] else edit for site, edit in edits.items()}
    before, after = (
        looked(trainer.model, product.params, tokens, given)[1][STREAM[1]] for given in (only_first, edits)
    )
    before, after = np.asarray(before), np.asarray(after)
    levels = 7 if "_4" in name else 127
    first = 1 if name.endswith("rest") else 0
    shared: Per = "token" if name.endswith("token") else "channel" if name.endswith("channel") else "tensor"
    rounded = round_to_nearest(jnp.asarray(before[:, first:]), levels, shared)
    np.testing.assert_allclose(after[:, first:], rounded, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(after[:, :first], before[:, :first])
    first_rounded, plain = (
        looked(trainer.model, product.params, tokens, given)[1][STREAM[0]] for given in (edits, as_it_was)
    )
    assert np.abs(first_rounded - plain)[:, first:].max() > 1e-3
    assert risk(product, name) != risk(product, "free")


def test_a_network_is_its_seed_s(made: Any, tmp_path: Path) -> None:
    trainer, product = made
    same, other = trainer.run([3, 4], tmp_path, lambda share: None)
    np.testing.assert_array_equal(same.arrays["all"], product.arrays["all"])
    assert np.abs(other.arrays["all"] - same.arrays["all"]).max() > 1e-4
    assert same.manifest["conditions"] == list(CONDITIONS)
