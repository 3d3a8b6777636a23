"""Attention and values by the token of the key, against plain loops over what was captured."""

import jax
import numpy as np
import pytest

from jaxsink.attention import ReLU
from jaxsink.models import Transformer, TransformerConfig, init
from jaxsink.probing import Scale, run
from jaxsink.tasks import BigramBackcopy, dirichlet
from jaxsink.training.by_token import by_token

B, T = 6, 8
CHAIN = dirichlet(6, 0.7, 1)
MODELS = {
    "two heads": TransformerConfig(n_heads=2, d_model=8),
    "ReLU": TransformerConfig(d_model=8, attention=ReLU()),
    "registers": TransformerConfig(n_heads=2, d_model=8, registers=2, positions="alibi"),
}


def built(config, task):
    model = Transformer(task.vocab_size, T, config)
    params = jax.jit(lambda key: init(model, key))(jax.random.key(0))
    return model, params, task.sample(jax.random.key(1), B, T)[:, :-1]


@pytest.mark.parametrize(("config", "starts"), [("two heads", 0), ("two heads", 2), ("ReLU", 1), ("registers", 1)])
def test_shares_and_norms_are_those_of_the_loops(config, starts):
    task = BigramBackcopy.make(CHAIN, 2, starts=starts)
    model, params, tokens = built(MODELS[config], task)
    edits = {"blocks.0.v": Scale(2.0)}
    found = jax.device_get(jax.jit(lambda p, t: by_token(model, task, p, t, edits))(params, tokens))
    captured = run(model, params, tokens, capture=["blocks.0.pattern", "blocks.0.v"], edits=edits)[1]
    skip, heads = model.config.registers, model.config.n_heads
    pattern = np.asarray(captured["blocks.0.pattern"], np.float64)[:, :, skip:, skip:]
    v = np.asarray(captured["blocks.0.v"], np.float64)[:, skip:]
    w_o = np.asarray(params["blocks_0"]["W_O"], np.float64).reshape(heads, -1, 8)
    trigger, tokens = np.asarray(task.is_trigger(tokens)), np.asarray(tokens)
    share, even, norms = np.zeros((heads, 7)), np.zeros(7), [[] for _ in range(7)]
    for b in range(B):
        for i in range(T):
            norms[tokens[b, i]].append(np.linalg.norm(sum(v[b, i, n] @ w_o[n] for n in range(heads))))
            if trigger[b, i] or i < max(1, starts):
                continue
            for j in range(i + 1):
                even[tokens[b, j]] += 1 / (i + 1)
                share[:, tokens[b, j]] += pattern[b, :, i, j]
    # float32 sums of a few hundred terms of size one.
    close = {"rtol": 2e-5, "atol": 2e-6}
    wanted = (share / share.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(found["attention_by_token"], wanted[None], **close)
    np.testing.assert_allclose(found["uniform_by_token"], even / even.sum(), **close)
    mean = [np.mean(x) if x else np.nan for x in norms]
    np.testing.assert_allclose(found["value_norm_by_token"], [mean], **close)
    assert np.isnan(mean[-1]) == (starts == 0)
    assert found["copy_share"] == pytest.approx(trigger[:, starts:].mean())


def test_a_block_without_attention_has_nothing():
    task = BigramBackcopy.make(CHAIN, 2)
    model, params, tokens = built(TransformerConfig(n_layers=2, d_model=8, layers_without_attention=(1,)), task)
    found = by_token(model, task, params, tokens)
    for name in ("attention_by_token", "value_norm_by_token"):
        assert np.isfinite(found[name][0]).all() or name == "value_norm_by_token"
        assert np.isnan(found[name][1]).all()
