"""A sweep gives what a loop over `run` gives, from one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.models import Transformer, TransformerConfig, init
from jaxsink.probing import (
    ForceAttention,
    Scale,
    Set,
    every_block,
    every_head,
    remove_block,
    run,
    sweep,
    zero_head,
)

MODEL = Transformer(
    7,
    6,
    TransformerConfig(n_layers=3, n_heads=2, d_model=8, layers_without_attention=(1,), layers_without_mlp=(0,)),
)
TOKENS = jnp.array([[6, 0, 3, 2, 5, 1], [6, 1, 1, 4, 0, 2]])
LAST = {"blocks.2.pattern": lambda x: x[..., 0].mean((0, 2))}
# Batched and fused float32 sums of at most 32 terms run in another order.
REORDERED = {"rtol": 1e-5, "atol": 1e-5}


def read(logits, captured):
    return {"logits": logits, "sink": captured["blocks.2.pattern"]}


def check(found, edits, params, labels):
    assert found["logits"].shape == (len(labels), 2, 6, 7)
    assert found["sink"].shape == (len(labels), 2)
    for i in range(len(labels)):
        expected = read(*run(MODEL, params, TOKENS, capture=LAST, edits=edits[i]))
        for name in expected:
            np.testing.assert_allclose(found[name][i], expected[name], **REORDERED, err_msg=f"{labels[i]} {name}")


@pytest.fixture(scope="module")
def params():
    return init(MODEL, jax.random.key(0))


@pytest.mark.parametrize("batch", [None, 3])
def test_every_head_equals_a_loop_over_heads(batch, params):
    labels, edits = every_head(MODEL)
    assert labels == [(0, 0), (0, 1), (2, 0), (2, 1)]
    found = sweep(MODEL, params, TOKENS, edits, read, capture=LAST, batch=batch)
    check(found, [zero_head(MODEL, *label) for label in labels], params, labels)


def test_every_block_equals_a_loop_over_blocks(params):
    labels, edits = every_block(MODEL)
    assert labels == [0, 1, 2]
    found = sweep(MODEL, params, TOKENS, edits, read, capture=LAST)
    check(found, [remove_block(MODEL, label) for label in labels], params, labels)


def test_edits_of_ones_own_with_a_shared_scalar(params):
    weights, factors = jnp.array([0.1, 0.5, 0.9]), jnp.arange(24.0).reshape(3, 8)
    edits = {"blocks.2.pattern": [ForceAttention(0, weights)], "embed": [Scale(factors), Scale(0.5)]}
    found = sweep(MODEL, params, TOKENS, edits, read, capture=LAST, batch=3)
    single = [{"blocks.2.pattern": ForceAttention(0, weights[i]), "embed": Scale(0.5 * factors[i])} for i in range(3)]
    check(found, single, params, [0, 1, 2])


def test_one_compilation_for_all_edits_and_for_new_ones(params):
    count = 0

    def counted(logits, captured):
        nonlocal count
        count += 1
        return logits.sum()

    _, edits = every_head(MODEL)
    first = sweep(MODEL, params, TOKENS, edits, counted)
    second = sweep(MODEL, params, TOKENS, jax.tree.map(lambda x: x + 1.0 if x.dtype != bool else x, edits), counted)
    assert count == 1
    assert first.shape == (4,)
    assert float(jnp.abs(first - second).max()) > 1e-3


def test_mistakes(params):
    def swept(edits, **options):
        sweep(MODEL, params, TOKENS, edits, read, **options)

    with pytest.raises(ValueError, match="must have a leading axis E, but no array in them has any axis"):
        swept({"embed": Set(0.0)})
    with pytest.raises(ValueError, match=r"edits\['embed'\].where has shape \(3,\), but the leading axis of .* is 2"):
        swept({"embed": Set(jnp.zeros(2), jnp.ones(3, bool))})
    with pytest.raises(ValueError, match="batch must be at least 1, but 0 was given"):
        swept({"embed": Set(jnp.zeros(2))}, batch=0)
    with pytest.raises(ValueError, match="nearest is 'embed'"):
        swept({"embeds": Set(jnp.zeros(2))})
