"""The study of small models: what each kind is trained for, and what is measured with and without controls."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.studies import producer_of, small_models
from experiments.studies.product import Product
from jaxsink import control
from jaxsink.models import TransformerConfig
from jaxsink.probing import run
from jaxsink.training import AdamW, DirichletChain, TaskConfig, TrainConfig, TrainState, seed_keys
from theory.small_models import LOOKS, SmallModel

T, ROW, INTERIOR = 8, 4, 2
RUN = TrainConfig(
    task=TaskConfig(chain=DirichletChain(6, 0.7, 1), n_triggers=2),
    model=TransformerConfig(n_layers=2, n_heads=2, d_model=8),
    optimiser=AdamW(rate=1e-2),
    length=T,
    batch=16,
    steps=60,
    chunk_steps=30,
    probe_batch=16,
)
ENCODER = SmallModel("encoder", RUN, masked=0.3, row=ROW, interior=INTERIOR)
BARE = SmallModel("decoder", replace(RUN, model=replace(RUN.model, positions="none")), row=ROW, interior=INTERIOR)
SITES = [f"blocks.{i}.{site}" for i in (0, 1) for site in ("pattern", "v")]
Made = tuple[small_models.Trainer, Product]


def made(spec: SmallModel, path: Path) -> Made:
    trainer, shares = small_models.Trainer(spec, 1), []
    (product,) = trainer.run([3], path, shares.append)
    assert shares == [0.5, 0.5]
    return trainer, product


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: Any) -> Made:
    return made(ENCODER, tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: Any) -> Made:
    return made(BARE, tmp_path_factory.mktemp("decoder"))


def probe(trainer: small_models.Trainer) -> jax.Array:
    """[2, B, T], the exercise on which a seed's model is measured."""
    key = seed_keys(3).probe
    tokens = trainer.task.sample(key, trainer.spec.run.probe_batch, T)
    return trainer.exercise(tokens, jax.random.fold_in(key, 1))


@partial(jax.jit, static_argnums=0)
def full_maps(model: Any, params: Any, seen: jax.Array, edits: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Logits, weights and values; compiled, because one operation after the other takes a minute to compile."""
    return run(model, params, seen, capture=SITES, edits=edits)


def test_an_encoder_predicts_what_is_hidden_and_a_decoder_what_comes_next(encoder: Made, bare: Made) -> None:
    task, key = encoder[0].task, jax.random.key(0)
    tokens = task.sample(key, 200, T)
    seen, wanted = np.asarray(encoder[0].exercise(tokens, key))
    hidden = wanted >= 0
    np.testing.assert_array_equal(seen[~hidden], np.asarray(tokens)[:, :-1][~hidden])
    np.testing.assert_array_equal(wanted[hidden], np.asarray(tokens)[:, :-1][hidden])
    assert (seen[hidden] == encoder[0].mask_id).all()
    assert encoder[0].mask_id not in np.asarray(tokens)
    # 1,400 draws of .3: a standard error of .012.
    assert hidden[:, 1:].mean() == pytest.approx(0.3, abs=0.05)
    assert not hidden[:, 0].any()
    seen, wanted = np.asarray(bare[0].exercise(tokens, key))
    np.testing.assert_array_equal(seen, tokens[:, :-1])
    np.testing.assert_array_equal(wanted, tokens[:, 1:])


def test_the_loss_is_that_of_the_hidden_tokens_alone(encoder: Made) -> None:
    trainer, product = encoder
    exercise = probe(trainer)
    seen, wanted = np.asarray(exercise)
    logits = np.asarray(full_maps(trainer.model, product.params, exercise[0], {})[0], np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    each = [-np.log(chances[b, t, wanted[b, t]]) for b in range(len(seen)) for t in range(T) if wanted[b, t] >= 0]
    assert float(product.arrays["loss"]) == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_training_lowers_the_loss(kind: str, request: Any) -> None:
    trainer, product = request.getfixturevalue("encoder" if kind == "encoder" else "bare")
    keys = seed_keys(3)
    fresh: TrainState = trainer.program.init(keys.init)
    before = float(trainer.program.measure(fresh, keys.probe)["loss"])
    # Sixty steps; a model that learns nothing stays where it began.
    assert float(product.arrays["loss"]) < before - 0.1


def test_an_encoder_sees_what_comes_after_and_a_decoder_does_not(encoder: Made, bare: Made) -> None:
    for (trainer, product), later in ((encoder, True), (bare, False)):
        seen = probe(trainer)[0]
        changed = seen.at[:, -1].set((seen[:, -1] + 1) % 6)
        one, other = (np.asarray(full_maps(trainer.model, product.params, x, {})[0])[:, :-1] for x in (seen, changed))
        assert (one != other).any() == later


def test_what_is_received_is_that_of_full_maps(encoder: Made, bare: Made) -> None:
    for trainer, product in (encoder, bare):
        model, params, seen = trainer.model, product.params, probe(trainer)[0]
        alone, last = (partial(control.restrict_rows, model, [0, 1], ROW, sees) for sees in _RULES)
        # The position control by vectors, where the study gives numbers; without positions it is nothing.
        moves = {look: {} for look in ("position", "interior")}
        if "W_pos" in params:
            for look, number in (("position", 0), ("interior", INTERIOR)):
                moves[look] = control.transplant_position(model, params["W_pos"][number], ROW, T)
        edits = {"free": {}, "mask": alone(T), "last_five": last(T), **moves}
        for look, index in zip(LOOKS, range(len(LOOKS)), strict=True):
            _, found = full_maps(model, params, seen, edits[look])
            for layer in (0, 1):
                weights = np.asarray(found[f"blocks.{layer}.pattern"], np.float64)
                norms = np.linalg.norm(
                    np.asarray(found[f"blocks.{layer}.v"], np.float64).reshape(*seen.shape, -1), axis=-1
                )
                for key in range(T):
                    queries = [q for q in range(key if trainer.causal else 0, T) if q != key]
                    expected = weights[:, :, queries, key].mean((0, 2)) if queries else np.zeros(2)
                    received = product.arrays["received"][index, layer, :, key]
                    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-6, err_msg=look)
                    ratio = np.exp((np.log(norms[:, key]) - np.median(np.log(norms), axis=1)).mean())
                    np.testing.assert_allclose(product.arrays["value_norm"][index, layer, key], ratio, rtol=1e-4)


_RULES = (control.itself, control.last(5))


def test_even_attention_is_what_even_weights_give(encoder: Made, bare: Made) -> None:
    np.testing.assert_allclose(encoder[1].arrays["even"], 1 / T, rtol=1e-6)
    weights = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]
    expected = [weights[key + 1 :, key].mean() for key in range(T - 1)]
    np.testing.assert_allclose(bare[1].arrays["even"], [*expected, 0], rtol=1e-6)


def test_without_positions_there_is_nothing_to_move_and_with_them_there_is(encoder: Made, bare: Made) -> None:
    position, mask = (list(LOOKS).index(look) for look in ("position", "mask"))
    received = bare[1].arrays["received"]
    np.testing.assert_array_equal(received[position], received[0])
    np.testing.assert_array_equal(bare[1].arrays["value_norm"][position], bare[1].arrays["value_norm"][0])
    assert np.abs(received[mask] - received[0])[1].max() > 1e-3
    assert np.abs(encoder[1].arrays["received"][position] - encoder[1].arrays["received"][0]).max() > 1e-3


def test_a_model_is_its_seed_s(encoder: Made, tmp_path: Path) -> None:
    assert producer_of(ENCODER) is small_models
    same, other = encoder[0].run([3, 4], tmp_path, lambda share: None)
    np.testing.assert_array_equal(same.arrays["received"], encoder[1].arrays["received"])
    assert np.abs(other.arrays["received"] - same.arrays["received"]).max() > 1e-3
    assert (same.manifest["kind"], same.manifest["scheme"], same.manifest["row"]) == ("encoder", "learned", ROW)


def test_an_untrained_model_does_not_pass_for_a_trained_one(encoder: Made) -> None:
    """The comparison of full maps above can fail."""
    trainer, product = encoder
    fresh = trainer.program.init(seed_keys(3).init).params
    _, found = full_maps(trainer.model, fresh, probe(trainer)[0], {})
    received = np.asarray(found["blocks.1.pattern"]).mean((0, 2))
    assert np.abs(received - product.arrays["received"][0, 1]).max() > 0.01
