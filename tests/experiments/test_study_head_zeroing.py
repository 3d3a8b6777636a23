"""The study of zeroed heads gives the losses of whole models of which one head is zeroed."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.studies import checkpoint, head_zeroing, producer_of
from jaxsink.probing import Edits, run, zero_head
from theory.checkpoint import Passages
from theory.heads import HeadZeroing

SPEC = HeadZeroing(Passages("glassllm", "documentation", 2, 24), every=2)


def test_costs_are_those_of_models_without_the_head(tmp_path: Path) -> None:
    assert producer_of(SPEC) is head_zeroing
    shares: list[float] = []
    trainer = head_zeroing.Trainer(SPEC, 1)
    product = trainer.run([4], tmp_path, shares.append)[0]
    assert sum(shares) == pytest.approx(1)
    model, params = trainer.loaded.model, trainer.loaded.params
    tokens = checkpoint.drawn(SPEC.passages, trainer.loaded, 4)

    def logarithms(edits: Edits) -> np.ndarray:
        logits, _ = run(model, params, jnp.asarray(tokens), edits=edits)
        return np.asarray(jax.nn.log_softmax(logits), np.float64)[:, :23]

    def losses(logs: np.ndarray) -> np.ndarray:
        return np.array([-np.mean([logs[b, t, tokens[b, t + 1]] for t in range(23)]) for b in range(2)])

    whole = logarithms({})
    np.testing.assert_allclose(product.arrays["loss"], losses(whole), rtol=1e-5)
    np.testing.assert_array_equal(product.arrays["layers"], [1, 3])
    assert product.arrays["cost"].shape == product.arrays["sink_mass"].shape == (2, 2, model.config.n_heads)
    _, found = run(model, params, jnp.asarray(tokens), capture=["blocks.1.pattern", "blocks.3.pattern"])
    for i, layer in enumerate((1, 3)):
        weights = np.asarray(found[f"blocks.{layer}.pattern"], np.float64)[:, :, 1:, 0].mean(-1)
        np.testing.assert_allclose(product.arrays["sink_mass"][:, i], weights, rtol=1e-4)
        for head in (2 * i,):
            edited = logarithms(zero_head(model, layer, head))
            cost = losses(edited) - losses(whole)
            divergence = (np.exp(whole) * (whole - edited)).sum(-1).mean(-1)
            np.testing.assert_allclose(product.arrays["divergence"][:, i, head], divergence, rtol=1e-2, atol=1e-6)
            np.testing.assert_allclose(product.arrays["cost"][:, i, head], cost, atol=1e-5)
            assert np.abs(cost).max() > 1e-3


def test_an_encoder_has_no_such_loss() -> None:
    with pytest.raises(ValueError, match="is no decoder"):
        head_zeroing.Trainer(HeadZeroing(Passages("minilm-l6", "documentation", 2, 24)), 1)
