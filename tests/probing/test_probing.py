"""Sites, capture and edits: what is captured is what was computed, and an edit never silently does nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.models import Transformer, TransformerConfig, init
from jaxsink.probing import Set, run, sites

MODEL = Transformer(7, 6, TransformerConfig(n_layers=2, n_heads=2, d_model=8))
ONE_LAYER = Transformer(7, 6, TransformerConfig(n_heads=2, d_model=8))
TOKENS = jnp.array([[6, 0, 3, 2, 5, 1], [6, 1, 1, 4, 0, 2]])


@pytest.fixture(scope="module")
def params():
    return init(MODEL, jax.random.key(0))


def test_the_table_of_sites():
    table = sites(MODEL, batch=2)
    assert table["blocks.1.attn_scores"].shape == (2, 2, 6, 6)
    assert table["blocks.0.v"].shape == (2, 6, 2, 4)
    assert table["blocks.1.mlp_post"].shape == (2, 6, 32)
    assert table["logits"].shape == (2, 6, 7)
    assert len(table) == 2 * 13 + 4
    assert "blocks.0.q" not in sites(Transformer(7, 6, TransformerConfig(d_model=8, layers_without_attention=(0,))))


def test_the_table_is_that_of_the_present_precision_and_the_callers_own():
    double = Transformer(7, 6, TransformerConfig(n_heads=2, d_model=8, dtype="float64"))
    with pytest.warns(UserWarning, match="float64"):  # JAX's own
        sites(double).clear()
    assert sites(double)["logits"].dtype == "float32"
    with jax.enable_x64(True):
        assert sites(double)["logits"].dtype == "float64"


def test_every_site_can_be_captured_without_moving_the_logits(params):
    table = sites(MODEL, batch=2)
    plain = MODEL.apply({"params": params}, TOKENS)
    # Both eager: two separate compilations may fuse, and so round, differently.
    logits, captured = run(MODEL, params, TOKENS, capture=list(table))
    np.testing.assert_array_equal(logits, plain)
    assert {name: x.shape for name, x in captured.items()} == {name: site.shape for name, site in table.items()}


def test_captured_values_fit_together(params):
    names = ["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post", "pattern", "v", "z"]
    _, captured = run(MODEL, params, TOKENS, capture=[f"blocks.1.{name}" for name in names])
    value = {name: captured[f"blocks.1.{name}"] for name in names}
    np.testing.assert_array_equal(value["resid_mid"], value["resid_pre"] + value["attn_out"])
    np.testing.assert_array_equal(value["resid_post"], value["resid_mid"] + value["mlp_out"])
    z = jnp.einsum("bnts,bsnh->btnh", value["pattern"], value["v"])
    # Two orders of summation over at most six float32 terms.
    np.testing.assert_allclose(value["z"], z, rtol=1e-5, atol=1e-6)


def test_a_reduced_capture_is_what_reducing_afterwards_gives(params):
    capture = {
        "blocks.0.pattern": lambda x: x[..., 0].mean(2),
        "blocks.1.resid_post": lambda x: {"norm": jnp.sqrt(jnp.square(x).sum(-1)), "top": x.max()},
    }
    plain, whole = run(MODEL, params, TOKENS, capture=list(capture))
    logits, reduced = run(MODEL, params, TOKENS, capture=capture)
    np.testing.assert_array_equal(logits, plain)
    jax.tree.map(np.testing.assert_array_equal, reduced, {name: f(whole[name]) for name, f in capture.items()})
    # Nothing else comes out of a jit, and it is the same but for fused float32 operations.
    compiled, small = jax.jit(lambda p: run(MODEL, p, TOKENS, capture=capture))(params)
    assert [x.shape for x in jax.tree.leaves((compiled, small))] == [(2, 6, 7), (2, 2), (2, 6), ()]
    for fused, eager in zip(jax.tree.leaves(small), jax.tree.leaves(reduced), strict=True):
        np.testing.assert_allclose(fused, eager, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("site", sorted(sites(ONE_LAYER)))
def test_an_edit_is_exact_at_every_site(site):
    params = init(ONE_LAYER, jax.random.key(0))

    @jax.jit
    def edited(value, where):
        return run(ONE_LAYER, params, TOKENS, capture=[site], edits={site: Set(value, where)})

    plain, captured = edited(jnp.nan, False)
    x = captured[site]
    # Eager on both sides, as two compilations may fuse, and so round, differently.
    nothing, _ = run(ONE_LAYER, params, TOKENS, edits={site: Set(jnp.nan, False)})
    np.testing.assert_array_equal(nothing, ONE_LAYER.apply({"params": params}, TOKENS))
    same, _ = edited(x, True)
    np.testing.assert_array_equal(same, plain)
    # A multiple as well: one and the same shift of all keys moves no weight.
    target = 3.0 * x + jnp.arange(x.shape[-1], dtype=x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    changed, after = edited(target, True)
    np.testing.assert_array_equal(after[site], target)
    assert np.abs(np.asarray(changed) - np.asarray(plain)).max() > 1e-4


def test_zeroing_a_part_equals_leaving_it_out(params):
    out, _ = run(MODEL, params, TOKENS, edits={"blocks.0.attn_out": Set(0.0)})
    cut = Transformer(7, 6, TransformerConfig(n_layers=2, n_heads=2, d_model=8, layers_without_attention=(0,)))
    np.testing.assert_array_equal(out, cut.apply({"params": params}, TOKENS))


def test_edits_reach_through_jit_vmap_and_grad(params):
    def loss(value, where):
        logits, _ = run(MODEL, params, TOKENS, edits={"blocks.0.z": Set(value, where)})
        return jnp.square(logits).sum()

    heads = jnp.eye(2, dtype=bool)[:, None, None, :, None]
    one_by_one = jnp.stack([loss(0.0, where) for where in heads])
    # vmap batches the matrix products, whose float32 sums may then run in another order.
    np.testing.assert_allclose(jax.jit(jax.vmap(loss, (None, 0)))(0.0, heads), one_by_one, rtol=1e-5)
    assert float(jnp.abs(jax.grad(loss)(1.0, heads[0]))) > 0
    assert float(jax.grad(loss)(1.0, jnp.zeros_like(heads[0]))) == 0


def test_new_edit_values_do_not_compile_again(params):
    count = 0

    @jax.jit
    def logits(value):
        nonlocal count
        count += 1
        return run(MODEL, params, TOKENS, edits={"embed": Set(value)})[0]

    logits(0.0), logits(1.0)
    assert count == 1


def test_mistakes(params):
    with pytest.raises(ValueError, match=r"site 'blocks.0.atn_out' does not exist .* nearest is 'blocks.0.attn_out'"):
        run(MODEL, params, TOKENS, capture=["blocks.0.atn_out"])
    with pytest.raises(ValueError, match=r"site 'blocks.2.q' does not exist"):
        run(MODEL, params, TOKENS, edits={"blocks.2.q": Set(0.0)})
    with pytest.raises(ValueError, match=r"value of shape \(3,\), but it must broadcast to \(2, 6, 2, 4\)"):
        run(MODEL, params, TOKENS, edits={"blocks.0.q": Set(jnp.zeros(3))})
    with pytest.raises(ValueError, match="where must be boolean"):
        run(MODEL, params, TOKENS, edits={"blocks.0.q": Set(0.0, jnp.ones(4))})
    with pytest.raises(ValueError, match="capture must be names of sites, but is the single text 'embed'"):
        run(MODEL, params, TOKENS, capture="embed")
    with pytest.raises(ValueError, match=r"tokens must be \[B, T\], but have shape \(6,\)"):
        run(MODEL, params, TOKENS[0], capture=["embed"])
