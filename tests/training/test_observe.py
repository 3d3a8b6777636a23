"""What is measured on a network, against plain loops over its captured activations."""

import jax
import numpy as np
import pytest

from jaxsink.attention import Differential
from jaxsink.models import Transformer, TransformerConfig, init
from jaxsink.probing import Set, run
from jaxsink.tasks import BigramBackcopy, dirichlet
from jaxsink.training.observe import ablations, examples, observe

B, T = 6, 8
CHAIN = dirichlet(6, 0.7, 1)
MODELS = {
    "two layers": TransformerConfig(n_layers=2, n_heads=2, d_model=8),
    "first block without attention": TransformerConfig(n_layers=2, d_model=8, layers_without_attention=(0,)),
    "registers": TransformerConfig(n_layers=2, n_heads=2, d_model=8, registers=2, positions="alibi"),
    "second block without MLP": TransformerConfig(n_layers=2, d_model=8, layers_without_mlp=(1,)),
}
TASKS = {
    "one start": BigramBackcopy.make(CHAIN, 2),
    "two starts": BigramBackcopy.make(CHAIN, 2, starts=2),
    "noisy copies": BigramBackcopy.make(CHAIN, 2, copy_probability=0.5),
}
# float32 sums of at most a few hundred terms of size one, against float64.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}


def built(config, task):
    model = Transformer(task.vocab_size, T, config)
    params = jax.jit(lambda key: init(model, key))(jax.random.key(0))
    # Larger queries: at its initialisation a network's attention is all but uniform, and any mean looks like another.
    for name in (n for n in params if n.startswith("blocks_")):
        if "W_Q" in params[name]:
            params[name] = {**params[name], "W_Q": params[name]["W_Q"] * 4}
    return model, params, task.sample(jax.random.key(1), B, T)[:, :-1]


def positions(task, tokens):
    """Copy positions and dormant ones, as lists of (sequence, position)."""
    copies, dormant = [], []
    for b in range(B):
        for i in range(task.starts, T):
            follows_character = i > 0 and tokens[b][i - 1] != task.start_id
            (copies if tokens[b][i] in task.triggers and follows_character else dormant).append((b, i))
    return copies, dormant


def risk(task, logits, tokens, where):
    """Mean over positions of sum p (ln p - ln q), p the law of the task and q that of the logits."""
    law, terms = np.asarray(task.law(tokens), np.float64), []
    for b, i in where:
        logit = logits[b, i].astype(np.float64)
        log_q = logit - np.log(np.exp(logit - logit.max()).sum()) - logit.max()
        terms.append(sum(p * (np.log(p) - q) for p, q in zip(law[b, i], log_q, strict=True) if p > 0))
    return np.mean(terms)


SITES = ("attn_scores", "pattern", "v", "resid_post")


def by_hand(model, task, params, tokens, layer, captured):
    """Measurements of one block with attention, from what was captured there."""
    scores, pattern, v, resid = (np.asarray(captured[f"blocks.{layer}.{s}"], np.float64) for s in SITES)
    skip = model.config.registers
    scores, pattern, v, resid = scores[:, :, skip:, skip:], pattern[:, :, skip:, skip:], v[:, skip:], resid[:, skip:]
    heads, tokens = range(model.config.n_heads), np.asarray(tokens)
    copies, dormant = positions(task, tokens)
    late = [(b, i) for b, i in dormant if i >= 2]
    w_o = np.asarray(params[f"blocks_{layer}"]["W_O"], np.float64).reshape(len(heads), -1, model.config.d_model)

    def gap(b, n, i):
        return scores[b, n, i, 0] - np.mean([scores[b, n, i, j] for j in range(1, i)])

    def gap_of(token):
        queries = [(b, i) for b in range(B) for i in range(2, T) if tokens[b][i] == token]
        return np.mean([gap(b, n, i) for b, i in queries for n in heads]) if queries else np.nan

    def others(n):
        return [scores[b, n, i, j] for b, i in late for j in range(1, i)]

    values = np.array([[np.linalg.norm(sum(v[b, i, n] @ w_o[n] for n in heads)) for i in range(T)] for b in range(B)])
    norms = np.array([[np.linalg.norm(resid[b, i]) for i in range(T)] for b in range(B)])
    frequent = int(np.argmax(CHAIN.marginal))
    ordinary = copies + dormant
    return {
        "attn_start": np.mean([pattern[b, n, i, 0] for b, i in dormant for n in heads]),
        "attn_start_trigger": np.mean([pattern[b, n, i, 0] for b, i in copies for n in heads]),
        "attn_prev_trigger": np.mean([pattern[b, n, i, i - 1] for b, i in copies for n in heads]),
        "dlogit": np.mean([gap(b, n, i) for b, i in late for n in heads]),
        "dlogit_by_token": np.array([gap_of(token) for token in range(task.vocab_size)]),
        "sink_logit_std": np.mean([np.std([scores[b, n, i, 0] for b, i in late]) for n in heads]),
        "other_logit_std": np.mean([np.std(others(n)) for n in heads]),
        "sink_logit_mean": np.mean([scores[b, n, i, 0] for b, i in late for n in heads]),
        "value_norm_start": values[:, 0].mean(),
        "value_ratio": np.mean(
            [values[b, 0] / np.median([values[b, i] for c, i in ordinary if c == b]) for b in range(B)]
        ),
        "sink_share": np.mean([pattern[b, n, i, 0] / pattern[b, n, i].sum() for b, i in dormant for n in heads]),
        "sink_strength": np.mean([abs(pattern[b, n, i, 0]) for b, i in dormant for n in heads])
        / np.mean([abs(pattern[b, n, i]).sum() for b, i in copies for n in heads]),
        "row_mass": np.mean([pattern[b, n, i].sum() for b, i in dormant for n in heads]),
        "resid_norm_start": norms[:, 0].mean(),
        "resid_norm_other": norms[:, 1:].mean(),
        "resid_norm_content": np.mean([norms[b, i] for b, i in ordinary if tokens[b][i] == frequent]),
        "peak_ratio": np.mean(norms[:, 0] / norms[:, 1:].mean(axis=1)),
    }


RESIDUAL = {"resid_norm_start", "resid_norm_other", "resid_norm_content", "peak_ratio"}


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ("two layers", "two starts"),
        ("first block without attention", "noisy copies"),
        ("second block without MLP", "one start"),
        ("registers", "one start"),
    ],
)
def test_measurements_are_those_of_the_loops(config, task):
    task = TASKS[task]
    model, params, tokens = built(MODELS[config], task)
    found = jax.device_get(jax.jit(lambda p, t: observe(model, task, p, t))(params, tokens))
    copies, dormant = positions(task, np.asarray(tokens))
    assert len(copies) > 2
    layers = [i for i in range(2) if i not in model.config.layers_without_attention]
    wanted = [f"blocks.{i}.{site}" for i in layers for site in SITES]
    logits, captured = jax.device_get(jax.jit(lambda p, t: run(model, p, t, capture=wanted))(params, tokens))
    np.testing.assert_allclose(found.pop("backcopy"), risk(task, logits, tokens, copies), **TOLERANCE)
    np.testing.assert_allclose(found.pop("bigram"), risk(task, logits, tokens, dormant), **TOLERANCE)
    np.testing.assert_allclose(found.pop("baseline"), np.mean([1 / (i + 1) for _, i in dormant]), **TOLERANCE)
    for layer in range(2):
        if layer not in layers:
            for name in set(found) - RESIDUAL:
                assert np.isnan(found[name][layer]).all(), name
            assert all(np.isfinite(found[name][layer]) for name in RESIDUAL)
            continue
        expected = by_hand(model, task, params, tokens, layer, captured)
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert found[name].shape == (2, *np.shape(value))
            np.testing.assert_allclose(found[name][layer], value, **TOLERANCE, err_msg=name)


def test_an_operator_has_a_pattern_and_no_scores():
    task = TASKS["one start"]
    model, params, tokens = built(TransformerConfig(n_heads=2, d_model=8, attention=Differential()), task)
    found = jax.device_get(jax.jit(lambda p, t: observe(model, task, p, t))(params, tokens))
    pattern = run(model, params, tokens, capture=["blocks.0.pattern"])[1]["blocks.0.pattern"]
    _, dormant = positions(task, np.asarray(tokens))
    mass = np.mean([np.asarray(pattern, np.float64)[b, :, i].sum(-1).mean() for b, i in dormant])
    np.testing.assert_allclose(found["row_mass"][0], mass, **TOLERANCE)
    assert np.isnan(found["dlogit"]).all()
    with pytest.raises(ValueError, match="tap must return the pattern of Differential as it is"):
        run(model, params, tokens, edits={"blocks.0.pattern": Set(0.0)})


def test_without_any_attention_the_network_is_still_measured():
    task = TASKS["one start"]
    model, params, tokens = built(TransformerConfig(d_model=8, layers_without_attention=(0,)), task)
    found, logits = jax.device_get(
        jax.jit(lambda p, t: (observe(model, task, p, t), model.apply({"params": p}, t)))(params, tokens)
    )
    _, dormant = positions(task, np.asarray(tokens))
    np.testing.assert_allclose(found["bigram"], risk(task, logits, tokens, dormant), **TOLERANCE)


@pytest.mark.parametrize("config", ["first block without attention", "second block without MLP"])
def test_cutting_a_part_is_leaving_it_out(config):
    task = TASKS["one start"]
    model, params, tokens = built(MODELS[config], task)
    found = jax.jit(lambda p, t: ablations(model, task, p, t))(params, tokens)
    copies, dormant = positions(task, np.asarray(tokens))
    c = model.config
    without = {
        "attention": dict(layers_without_attention=(0, 1), layers_without_mlp=c.layers_without_mlp),
        "mlp": dict(layers_without_mlp=(0, 1), layers_without_attention=c.layers_without_attention),
    }
    full = np.asarray(jax.jit(model.apply)({"params": params}, tokens))
    for part, absent in without.items():
        config = TransformerConfig(n_layers=2, n_heads=c.n_heads, d_model=8, **absent)
        cut = Transformer(task.vocab_size, T, config)
        logits = np.asarray(jax.jit(cut.apply)({"params": params}, tokens))
        assert np.abs(logits - full).max() > 0.01
        for name, where in (("backcopy", copies), ("bigram", dormant)):
            expected = risk(task, logits, tokens, where)
            np.testing.assert_allclose(found[f"no_{part}_{name}"], expected, **TOLERANCE)
    nothing = np.zeros((B, T, task.vocab_size))
    np.testing.assert_allclose(found["uniform_backcopy"], risk(task, nothing, tokens, copies), **TOLERANCE)
    np.testing.assert_allclose(found["uniform_bigram"], risk(task, nothing, tokens, dormant), **TOLERANCE)
    # At a copy position the law is certain, so a uniform guess costs the logarithm of the vocabulary.
    np.testing.assert_allclose(found["uniform_backcopy"], np.log(task.vocab_size), rtol=1e-6)


def test_examples():
    task = TASKS["one start"]
    model, params, _ = built(MODELS["two layers"], task)
    key = jax.random.key(4)
    found = jax.device_get(jax.jit(lambda p: examples(model, task, p, key, T))(params))
    tokens, triggers = found["example_tokens"], found["example_triggers"]
    assert {name: x.shape for name, x in found.items()} == {
        "example_tokens": (2, T),
        "example_triggers": (2, T),
        "example_attention": (2, 2, T, T),
        "example_value_norm": (2, 2, T),
        "example_resid_norm": (2, 2, T),
    }
    np.testing.assert_array_equal(triggers, task.is_trigger(tokens))
    assert not triggers[1].any()
    assert not np.isin(tokens[1], task.triggers).any()
    # Triggers are never adjacent and the first character is none: at most (T - 1) // 2 fit, and among 512 such
    # sequences one is full. So the row chosen has the most that any has.
    assert triggers[0].sum() == (T - 1) // 2
    assert tokens[:, 0].tolist() == [task.start_id] * 2
    # float32 rows of at most eight weights.
    np.testing.assert_allclose(found["example_attention"].sum(axis=-1), 1.0, rtol=1e-6)
    assert not np.triu(found["example_attention"], 1).any()
    _, captured = run(model, params, tokens, capture=["blocks.1.resid_post", "blocks.1.pattern", "blocks.1.v"])
    resid, pattern, v = (np.asarray(captured[f"blocks.1.{s}"]) for s in ("resid_post", "pattern", "v"))
    np.testing.assert_allclose(found["example_resid_norm"][:, 1], np.linalg.norm(resid, axis=-1), **TOLERANCE)
    np.testing.assert_allclose(found["example_attention"][:, 1], pattern.mean(axis=1), **TOLERANCE)
    written = v.reshape(2, T, 8) @ np.asarray(params["blocks_1"]["W_O"])
    np.testing.assert_allclose(found["example_value_norm"][:, 1], np.linalg.norm(written, axis=-1), **TOLERANCE)
