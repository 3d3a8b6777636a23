"""The loss against a float64 loop over positions."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxsink.models import Transformer, TransformerConfig, init
from jaxsink.tasks import BigramBackcopy, dirichlet
from jaxsink.training.runs import next_token_loss

LENGTH = 8
TASK = BigramBackcopy.make(dirichlet(6, 0.7, 1), 2)
MODEL = Transformer(TASK.vocab_size, LENGTH, TransformerConfig(d_model=8))


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: init(MODEL, key))(jax.random.key(0))


# Compiled once for all tests: op by op the same takes seconds.
loss = jax.jit(partial(next_token_loss, MODEL, TASK), static_argnames="loss_on")
gradient_of = jax.jit(jax.grad(partial(next_token_loss, MODEL, TASK)), static_argnames="loss_on")
logits_of = jax.jit(lambda params, inputs: MODEL.apply({"params": params}, inputs))


def loop(logits, batch, only_triggers):
    """Cross-entropy of the target after each input, from its logits, averaged over the positions that count."""
    terms = []
    for row, sequence in zip(np.asarray(logits, np.float64), np.asarray(batch), strict=True):
        for i in range(len(sequence) - 1):
            copies = sequence[i] in TASK.triggers and i > 0 and sequence[i - 1] != TASK.start_id
            if copies or not only_triggers:
                terms.append(np.log(np.exp(row[i]).sum()) - row[i][sequence[i + 1]])
    return sum(terms) / len(terms), len(terms)


@pytest.mark.parametrize("loss_on", ["all", "triggers"])
def test_loss_is_the_loop_s(params, loss_on):
    batch = TASK.sample(jax.random.key(3), 5, LENGTH)
    # A trigger right after <s> has nothing to copy and does not count.
    batch = batch.at[0, 1].set(TASK.triggers[0])
    expected, count = loop(logits_of(params, batch[:, :-1]), batch, loss_on == "triggers")
    assert count == 5 * LENGTH if loss_on == "all" else 5 <= count < 5 * LENGTH / 2
    # float32 logarithms and a sum of at most forty of them, against float64.
    np.testing.assert_allclose(loss(params, batch, loss_on=loss_on), expected, rtol=2e-6)


def test_a_batch_without_triggers_trains_nothing(params):
    batch = TASK.trigger_free(jax.random.key(0), 4, LENGTH)
    assert float(loss(params, batch, loss_on="triggers")) == 0.0
    for leaf in jax.tree.leaves(gradient_of(params, batch, loss_on="triggers")):
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))
    # ... whereas all its positions do.
    assert float(loss(params, batch, loss_on="all")) > 0.1


def test_only_the_targets_of_triggers_count(params):
    batch = TASK.sample(jax.random.key(5), 8, LENGTH)
    # The target after the last input is no input: changing it moves its own term and nothing else.
    last_is_trigger = np.asarray(TASK.is_trigger(batch[:, :-1]))[:, -1]
    assert 0 < last_is_trigger.sum() < 8
    before = float(loss(params, batch, loss_on="triggers"))
    for row, counts in enumerate(last_is_trigger):
        changed = batch.at[row, -1].set((batch[row, -1] + 1) % TASK.chain.size)
        assert (float(loss(params, changed, loss_on="triggers")) != before) == counts
