"""Probing decoders and encoders: their sites, their inputs, and that nothing is computed that nobody wants."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.models import Decoder, DecoderConfig, Encoder, EncoderConfig, Transformer, TransformerConfig, init
from jaxsink.probing import (
    ForceAttention,
    Set,
    at,
    every_block,
    every_head,
    gradients,
    remove_block,
    run,
    sites,
    sweep,
    zero_head,
)

V, T = 7, 5
DECODER = Decoder(DecoderConfig(V, 1, n_heads=4, n_key_heads=2, head_size=4, d_model=8, d_mlp=6, max_length=9))
ENCODER = Encoder(EncoderConfig(V, 1, n_heads=2, d_model=8, d_mlp=6, max_length=9, pooler=True, mlm_head=True))
MODELS = pytest.mark.parametrize("model", [DECODER, ENCODER], ids=["decoder", "encoder"])
TOKENS = jnp.array([[6, 0, 3, 2, 5], [6, 1, 1, 4, 0]])
VALID = jnp.array([[False, False, True, True, True], [True] * 5])
READINGS = ("attn_on_first", "attn_received", "attn_entropy")


def drawn(model):
    shapes = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves])


def compiled(model, params, **arguments):
    """`run`, compiled whole and hardly optimised, which takes less time than operation by operation."""
    inputs = arguments.pop("inputs", {})

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def both(params, inputs):
        return run(model, params, TOKENS, inputs=inputs, **arguments)

    return both(params, inputs)


def test_the_table_of_sites_of_a_decoder():
    table = sites(DECODER, 2, T)
    blocks = {name.rsplit(".", 1)[-1] for name in table if name.startswith("blocks.0.")}
    assert blocks == {
        *("resid_pre", "q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", *READINGS, "z", "attn_out"),
        *("resid_mid", "mlp_pre", "mlp_pre_linear", "mlp_post", "mlp_out", "resid_post"),
    }
    assert {name for name in table if "." not in name} == {"embed", "final_norm", "logits"}
    shapes = {"rot_q": (2, T, 4, 4), "rot_k": (2, T, 2, 4), "v": (2, T, 2, 4), "attn_received": (2, 4, T)}
    assert {name: table[f"blocks.0.{name}"].shape for name in shapes} == shapes
    assert table["blocks.0.k"].axes == "BSKH"
    assert at(table["blocks.0.v"], K=1).shape == (1, 1, 2, 1)
    assert sites(DECODER)["blocks.0.z"].shape == (1, 9, 4, 4)


def test_the_table_of_sites_of_an_encoder():
    table = sites(ENCODER, 2, T)
    assert {name for name in table if "." not in name} == {"embed", "pos_embed", "type_embed", "pooled", "logits"}
    assert table["pooled"].shape == (2, 8)
    assert table["blocks.0.k"].axes == "BSNH"  # as many as queries
    assert not {name for name in table if "rot_" in name or "linear" in name or "final_norm" in name}
    bare = sites(Encoder(EncoderConfig(V, 1, n_heads=2, d_model=8, d_mlp=6)))
    assert "pooled" not in bare
    assert "logits" not in bare


@MODELS
def test_capturing_everything_moves_nothing(model):
    params, table = drawn(model), sites(model, 2, T)
    plain = model.apply({"params": params}, TOKENS, valid=VALID)
    # Both eager: two compilations may fuse, and so round, differently.
    out, captured = run(model, params, TOKENS, capture=list(table), inputs={"valid": VALID})
    np.testing.assert_array_equal(out, plain)
    assert {name: (x.shape, str(x.dtype)) for name, x in captured.items()} == {
        name: (site.shape, site.dtype) for name, site in table.items()
    }


@MODELS
def test_readings_are_those_of_the_pattern(model):
    params = drawn(model)
    names = [f"blocks.0.{name}" for name in (*READINGS, "pattern")]
    inputs = {"valid": VALID}
    _, whole = compiled(model, params, capture=names, inputs=inputs)
    pattern = np.asarray(whole["blocks.0.pattern"], np.float64)
    expected = {
        "attn_on_first": pattern[..., 0],
        "attn_received": pattern.sum(-2),
        "attn_entropy": -(pattern * np.log(np.where(pattern > 0, pattern, 1))).sum(-1),
    }
    _, alone = compiled(model, params, capture=names[:3], inputs=inputs)
    for name, value in expected.items():
        for found in (whole, alone):
            # Sums of five float32 numbers below one, in two compilations.
            np.testing.assert_allclose(found[f"blocks.0.{name}"], value, rtol=1e-5, atol=1e-6)
    # Padding gives and takes nothing: neither as a query nor as a key.
    assert not pattern[0, :, :2].any()
    assert not pattern[0, :, :, :2].any()
    assert not np.asarray(alone["blocks.0.attn_received"])[0, :, :2].any()
    # An edit of the weights is what is read.
    edits = {"blocks.0.pattern": ForceAttention(0, 0.25)}
    _, forced = compiled(model, params, capture=["blocks.0.attn_on_first"], edits=edits)
    np.testing.assert_allclose(np.asarray(forced["blocks.0.attn_on_first"])[:, :, 1:], 0.25, rtol=1e-6)


def largest_square(function, *arguments, length):
    """Whether any array of the traced function has two axes of this length."""

    def jaxprs(jaxpr):
        yield jaxpr
        for equation in jaxpr.eqns:
            for inner in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")
            ):
                if hasattr(inner, "jaxpr"):
                    inner = inner.jaxpr
                if hasattr(inner, "eqns"):
                    yield from jaxprs(inner)

    traced = jax.make_jaxpr(function)(*arguments)
    variables = (variable for jaxpr in jaxprs(traced.jaxpr) for eqn in jaxpr.eqns for variable in eqn.outvars)
    return max(variable.aval.shape.count(length) for variable in variables)


LONG = 1031  # from 1024 on the CPU takes blocks, unless a site needs the whole array; prime, so no block is as long
LONG_MODELS = {
    "decoder": (DECODER, "blocks.0.attn_received"),
    "encoder": (Encoder(EncoderConfig(V, 1, n_heads=2, d_model=8, d_mlp=6, max_length=LONG)), "blocks.0.attn_entropy"),
    "toy": (Transformer(V, LONG, TransformerConfig(n_heads=2, d_model=8)), "blocks.0.z"),
}


@pytest.mark.parametrize(("model", "site"), LONG_MODELS.values(), ids=LONG_MODELS)
def test_what_nobody_wants_costs_nothing(model, site):
    params = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((1, LONG), jnp.int32)

    def captured(*names, edits=None):
        return lambda p, t: run(model, p, t, capture=names, edits=edits)

    assert largest_square(captured(), params, tokens, length=LONG) == 1
    assert largest_square(captured(site, "blocks.0.resid_post"), params, tokens, length=LONG) == 1
    assert largest_square(captured("blocks.0.pattern"), params, tokens, length=LONG) == 2
    edited = captured(edits={"blocks.0.attn_scores": Set(0.0)})
    assert largest_square(edited, params, tokens, length=LONG) == 2


def test_capturing_one_site_returns_that_one_alone():
    captured = compiled(DECODER, drawn(DECODER), capture=["blocks.0.rot_k"])[1]
    assert {name: x.shape for name, x in captured.items()} == {"blocks.0.rot_k": (2, T, 2, 4)}


@pytest.mark.parametrize(
    ("model", "site"),
    [
        *((DECODER, f"blocks.0.{name}") for name in ("rot_q", "rot_k", "k", "mlp_pre", "mlp_pre_linear", "mlp_post")),
        *(
            (ENCODER, name)
            for name in ("type_embed", "pos_embed", "blocks.0.k", "blocks.0.mlp_pre", "blocks.0.attn_out")
        ),
    ],
    ids=str,
)
def test_an_edit_is_exact(model, site):
    params = drawn(model)

    @jax.jit
    def edited(value, where):
        return run(model, params, TOKENS, capture=[site], edits={site: Set(value, where)})

    plain, captured = edited(jnp.nan, False)
    same, _ = edited(captured[site], True)
    np.testing.assert_array_equal(same, plain)
    target = 3.0 * captured[site] + 0.5
    changed, after = edited(target, True)
    np.testing.assert_array_equal(after[site], target)
    assert np.abs(changed - plain).max() > 1e-3


def test_inputs_reach_the_model():
    params = drawn(ENCODER)
    inputs = {"valid": VALID, "positions": jnp.arange(T) + 2, "token_types": jnp.ones((2, T), jnp.int32)}
    out, _ = run(ENCODER, params, TOKENS, inputs=inputs)
    np.testing.assert_array_equal(out, ENCODER.apply({"params": params}, TOKENS, **inputs))

    def loss(logits, captured):
        return jnp.square(logits[:, 2:]).sum()

    _, found = jax.jit(lambda i: gradients(loss, ENCODER, params, TOKENS, ["blocks.0.k"], inputs=i))({"valid": VALID})
    assert not found["blocks.0.k"][0, :2].any()
    assert np.abs(found["blocks.0.k"][0, 2:]).min() > 0


@MODELS
def test_sweeps_are_the_runs_one_by_one(model):
    params, inputs = drawn(model), {"valid": VALID}
    for (labels, edits), single in ((every_head(model), zero_head), (every_block(model), remove_block)):
        assert len(labels) == (model.config.n_heads if single is zero_head else 1)
        found = sweep(model, params, TOKENS, edits, lambda out, _: out[0, 2:], inputs=inputs)
        for label, out in zip(labels[::3], found[::3], strict=True):
            one = single(model, *label) if single is zero_head else single(model, label)
            expected, _ = compiled(model, params, edits=one, inputs=inputs)
            # Another compilation: some hundred float32 roundings of logits of some units.
            np.testing.assert_allclose(out, expected[0, 2:], rtol=1e-4, atol=1e-4)


def test_mistakes():
    decoder, encoder = drawn(DECODER), drawn(ENCODER)
    with pytest.raises(ValueError, match=r"site 'blocks.0.attn_entropy' only reads what was computed"):
        run(DECODER, decoder, TOKENS, edits={"blocks.0.attn_entropy": Set(0.0)})
    with pytest.raises(ValueError, match=r"site 'pooled' only reads what was computed"):
        gradients(lambda out, _: out.sum(), ENCODER, encoder, TOKENS, ["pooled"])
    with pytest.raises(
        ValueError, match=r"inputs has the entry 'token_types', but Decoder takes only valid, positions"
    ):
        run(DECODER, decoder, TOKENS, inputs={"token_types": TOKENS})
    toy = Transformer(V, T, TransformerConfig(d_model=8))
    with pytest.raises(ValueError, match=r"inputs has the entry 'valid', but Transformer takes only positions"):
        run(toy, {}, TOKENS, inputs={"valid": VALID})
    with pytest.raises(ValueError, match="block 0 has 4 heads, but head 4"):
        zero_head(DECODER, 0, 4)
