"""A list of checkpoints followed: every number against loops over the full maps, and the order of what is given."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.models import Decoder, DecoderConfig, Transformer, TransformerConfig, init
from jaxsink.probing import run
from jaxsink.trajectory import follow

D, B, T, L, N, V = 2, 3, 12, 2, 4, 11
# Two query heads share a key head, as in checkpoints of the Llama family.
MODEL = Decoder(DecoderConfig(V, n_layers=L, n_heads=N, n_key_heads=2, head_size=4, d_model=16, d_mlp=24))
PASSAGES = dict(zip(("prose", "code"), np.random.default_rng(0).integers(0, V, (D, B, T)), strict=True))
SITES = [f"blocks.{i}.{site}" for i in range(L) for site in ("pattern", "attn_scores", "v", "resid_post")]


def params(seed: int) -> Any:
    """Weights large enough that heads attend to something."""
    return jax.tree.map(lambda w: 10.0 * w if w.ndim == 2 else w, init(MODEL, jax.random.key(seed)))


CHECKPOINTS = [(0, MODEL, params(0)), (7, MODEL, params(1)), (50, MODEL, params(2))]


@pytest.fixture(scope="module")
def followed() -> dict[str, np.ndarray]:
    return follow(iter(CHECKPOINTS), PASSAGES)


def test_every_number_is_that_of_loops_over_the_full_maps(followed: dict[str, np.ndarray]) -> None:
    flat, point = np.concatenate(list(PASSAGES.values())), 1
    logits, found = jax.jit(lambda p: run(MODEL, p, jnp.asarray(flat), capture=SITES))(CHECKPOINTS[point][2])
    for layer in range(L):
        weights, scores, v, resid = (
            np.asarray(found[f"blocks.{layer}.{site}"], np.float64)
            for site in ("pattern", "attn_scores", "v", "resid_post")
        )
        for b in range(D * B):
            for head in range(N):
                mass = np.mean([weights[b, head, q, 0] for q in range(1, T)])
                assert followed["sink_mass"][point, b // B, b % B, layer, head] == pytest.approx(mass, rel=1e-5)
        gaps = [
            scores[b, head, q, 0] - np.mean([scores[b, head, q, k] for k in range(1, q)])
            for b in range(D * B)
            for head in range(N)
            for q in range(2, T)
        ]
        norms, sizes = np.linalg.norm(v.reshape(D * B, T, -1), axis=-1), np.linalg.norm(resid, axis=-1)
        expected = {
            "attn_start": followed["sink_mass"][point, :, :, layer].mean(),
            "dlogit": np.mean(gaps),
            "value_ratio": np.mean([norms[b, 0] / np.median(norms[b, 1:]) for b in range(D * B)]),
            "resid_norm_start": sizes[:, 0].mean(),
            "resid_norm_other": sizes[:, 1:].mean(),
            "peak_ratio": np.mean([sizes[b, 0] / sizes[b, 1:].mean() for b in range(D * B)]),
        }
        for name, value in expected.items():
            # Sums of a few hundred numbers in float32.
            assert followed[name][point, layer] == pytest.approx(value, rel=2e-5, abs=1e-6), name
    chances = np.asarray(jax.nn.log_softmax(logits), np.float64)
    losses = [[-chances[b, t, flat[b, t + 1]] for t in range(T - 1)] for b in range(D * B)]
    np.testing.assert_allclose(followed["loss"][point], np.mean(np.reshape(losses, (D, -1)), axis=1), rtol=1e-5)
    assert followed["baseline"] == pytest.approx(np.mean([1 / (q + 1) for q in range(1, T)]))


def test_a_checkpoint_says_the_same_alone_and_in_a_list(followed: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(followed["step"], [0, 7, 50])
    alone = follow([CHECKPOINTS[2]], PASSAGES)
    for name, values in alone.items():
        np.testing.assert_array_equal(values, followed[name] if name == "baseline" else followed[name][2:])
    # Another order of the domains moves what is told by domain, and nothing else.
    turned = follow([CHECKPOINTS[2]], dict(reversed(PASSAGES.items())))
    np.testing.assert_allclose(turned["sink_mass"][:, ::-1], alone["sink_mass"], rtol=1e-5)
    np.testing.assert_allclose(turned["dlogit"], alone["dlogit"], rtol=1e-4, atol=1e-6)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="at least one"):
        follow([], PASSAGES)
    with pytest.raises(ValueError, match="in the order of their steps, but 0 follows 7"):
        follow([CHECKPOINTS[1], CHECKPOINTS[0]], PASSAGES)
    with pytest.raises(ValueError, match="alike in every domain"):
        follow(CHECKPOINTS, {**PASSAGES, "code": PASSAGES["code"][1:]})
    with pytest.raises(ValueError, match="8 tokens or more, but have 7"):
        follow(CHECKPOINTS, {"prose": PASSAGES["prose"][:, :7]})
    toy: Any = Transformer(V, T, TransformerConfig(d_model=8))
    with pytest.raises(ValueError, match="that of a decoder whose attention has one matrix of scores"):
        follow([(0, toy, {})], PASSAGES)
