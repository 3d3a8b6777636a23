"""Gradients with respect to sites against finite differences in float64 and against a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.models import Transformer, TransformerConfig, init
from jaxsink.probing import Add, Freeze, Set, gradients, run, sites

TOKENS = jnp.array([[6, 0, 3, 2], [6, 1, 1, 4]])


def model(dtype="float32"):
    return Transformer(7, 4, TransformerConfig(n_layers=2, n_heads=2, d_model=8, dtype=dtype))


@pytest.fixture(scope="module")
def params():
    return init(model(), jax.random.key(0))


def test_gradients_are_finite_differences_at_every_site():
    with jax.enable_x64(True):
        exact = model("float64")
        weights = init(exact, jax.random.key(0))
        table = sites(exact, *TOKENS.shape)
        capture = {"blocks.1.resid_mid": lambda x: jnp.square(x).sum(), "blocks.0.pattern": lambda x: x[..., 0].sum()}

        def scalar(logits, captured):
            return jnp.sin(logits).sum() + sum(captured.values())

        value, found = jax.jit(lambda w: gradients(scalar, exact, w, TOKENS, list(table), capture=capture))(weights)
        assert {name: x.shape for name, x in found.items()} == {name: site.shape for name, site in table.items()}

        @jax.jit
        def along(step, directions):
            edits = {name: Add(step * direction) for name, direction in directions.items()}
            return scalar(*run(exact, weights, TOKENS, capture=capture, edits=edits))

        zeros = {name: np.zeros(site.shape) for name, site in table.items()}
        np.testing.assert_allclose(value, along(0.0, zeros), rtol=1e-12)
        random = np.random.default_rng(0)
        for name, site in table.items():
            direction = random.normal(size=site.shape)
            both = zeros | {name: direction}
            # Central differences with h = 1e-5: h^2 of truncation, 1e-16 * 1e2 / h of rounding.
            slope = (along(1e-5, both) - along(-1e-5, both)) / 2e-5
            np.testing.assert_allclose((found[name] * direction).sum(), slope, rtol=1e-6, atol=1e-7, err_msg=name)
        assert all(float(jnp.abs(x).max()) > 1e-6 for x in found.values())


def test_the_gradient_of_a_loss_at_the_logits_is_known(params):
    targets = jnp.array([[1, 2, 3, 4], [0, 0, 5, 6]])

    def loss(logits, captured):
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1).mean()

    value, found = jax.jit(lambda weights: gradients(loss, model(), weights, TOKENS, ["logits"]))(params)
    logits, _ = run(model(), params, TOKENS)
    p = np.exp(np.asarray(logits, np.float64))
    p /= p.sum(-1, keepdims=True)
    # float32 against float64: some roundings of numbers below one.
    np.testing.assert_allclose(found["logits"], (p - np.eye(7)[np.asarray(targets)]) / 8, atol=1e-7)
    np.testing.assert_allclose(value, loss(logits, {}), rtol=1e-6)


def test_the_added_zeros_come_after_the_edits(params):
    slopes = jnp.arange(8.0)
    edits = {"blocks.0.attn_out": Set(0.5), "blocks.1.resid_pre": [Freeze(), Add(1.0)]}
    names = ["blocks.0.z", "blocks.0.attn_out", "blocks.0.resid_post", "blocks.1.resid_pre"]

    def scalar(logits, captured):
        return (captured["blocks.0.attn_out"] * slopes[None, None]).sum() + logits[..., 0].sum()

    @jax.jit
    def found_with(weights):
        return gradients(scalar, model(), weights, TOKENS, names, capture=["blocks.0.attn_out"], edits=edits)[1]

    found = found_with(params)
    np.testing.assert_array_equal(found["blocks.0.z"], 0)  # what is set does not depend on what was before
    np.testing.assert_array_equal(found["blocks.0.resid_post"], 0)  # frozen just after
    np.testing.assert_array_equal(found["blocks.0.attn_out"], jnp.broadcast_to(slopes, (2, 4, 8)))
    assert float(jnp.abs(found["blocks.1.resid_pre"]).max()) > 1e-3


def test_mistakes(params):
    with pytest.raises(ValueError, match=r"scalar must return a scalar, but returned shape \(2, 4, 7\)"):
        gradients(lambda logits, captured: logits, model(), params, TOKENS, ["embed"])
    with pytest.raises(ValueError, match="nearest is 'embed'"):
        gradients(lambda logits, captured: logits.sum(), model(), params, TOKENS, ["embeds"])
