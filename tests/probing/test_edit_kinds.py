"""Every kind of edit does what a loop does, where it holds; before it and beside it not a bit moves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.models import Transformer, TransformerConfig, init
from jaxsink.probing import (
    Add,
    Clamp,
    ForceAttention,
    Freeze,
    Scale,
    Set,
    at,
    merge,
    remove_block,
    replace_row,
    run,
    sites,
    zero_head,
)
from jaxsink.probing.sites import MEANINGS

MODEL = Transformer(7, 6, TransformerConfig(n_layers=2, n_heads=2, d_model=8))
TOKENS = jnp.array([[6, 0, 3, 2, 5, 1], [6, 1, 1, 4, 0, 2]])
TABLE = sites(MODEL, *TOKENS.shape)
STEPS = list(MEANINGS)  # in the order of computation
# The loops below run in float64 on the float32 activations: one rounding of up to three operations.
ROUNDING = {"rtol": 1e-6, "atol": 1e-7}


def order(name):
    """When a site is computed, as a sortable key."""
    *block, step = name.split(".")
    return (int(block[1]) if block else (-1 if "embed" in step else 9), STEPS.index(step))


def clamped(x, low, high):
    out = x.copy()
    for index in np.ndindex(x.shape[:-1]):
        norm = np.sqrt((x[index] ** 2).sum())
        if norm > 0:
            out[index] = x[index] * min(max(norm, low), high) / norm
    return out


def forced(x, key, weight):
    out = x.copy()
    for index in np.ndindex(x.shape[:-1]):
        row = x[index]
        others = row.sum() - row[key]
        if others > 1e-12:
            out[index] = row / others * (row.sum() - weight)
            out[index][key] = weight
    return out


class Case(NamedTuple):
    edits: dict
    expected: object  # from the site's value, float64, to what it is where the edit holds
    where: object  # from the site's shape to where that is
    position: int = 0  # before which nothing changes, at any site


def everywhere(shape):
    return np.ones(shape, bool)


def only(*index):
    def where(shape):
        chosen = np.zeros(shape, bool)
        chosen[index] = True
        return chosen

    return where


WHOLE = slice(None)
ROW = jnp.arange(8.0) - 3.0
HEADS = jnp.array([[0.5, 1, -1, 2], [3, 0, 1, 1]])
CASES = {
    "set": Case(
        {"blocks.1.v": Set(2.5, at(TABLE["blocks.1.v"], S=3, N=1))},
        lambda x: np.full_like(x, 2.5),
        only(WHOLE, 3, 1),
        position=3,
    ),
    "add": Case({"blocks.0.mlp_post": Add(0.5)}, lambda x: x + 0.5, everywhere),
    "add a vector": Case(
        {"blocks.1.resid_pre": Add(ROW, at(TABLE["blocks.1.resid_pre"], B=1, T=slice(2, None)))},
        lambda x: x + np.arange(8.0) - 3.0,
        only(1, slice(2, None)),
        position=2,
    ),
    "scale": Case(
        {"blocks.0.k": Scale(-2.0, at(TABLE["blocks.0.k"], S=[2, 4]))},
        lambda x: -2 * x,
        only(WHOLE, [2, 4]),
        position=2,
    ),
    "clamp above": Case({"blocks.0.attn_out": Clamp(0.0, 0.3)}, lambda x: clamped(x, 0, 0.3), everywhere),
    "clamp below": Case(
        {"blocks.1.q": Clamp(2.0, jnp.inf, at(TABLE["blocks.1.q"], N=0))},
        lambda x: clamped(x, 2.0, np.inf),
        only(WHOLE, WHOLE, 0),
    ),
    "force attention": Case(
        {"blocks.0.pattern": ForceAttention(0, 0.9)}, lambda x: forced(x, 0, 0.9), everywhere, position=1
    ),
    "force a head": Case(
        {"blocks.1.pattern": ForceAttention(2, 0.0, at(TABLE["blocks.1.pattern"], N=1, T=[4, 5]))},
        lambda x: forced(x, 2, 0.0),
        only(WHOLE, 1, [4, 5]),
        position=4,
    ),
    "replace a row": Case(
        replace_row(TABLE["blocks.0.resid_mid"], 4, ROW),
        lambda x: np.broadcast_to(np.arange(8.0) - 3.0, x.shape),
        only(WHOLE, 4),
        position=4,
    ),
    "replace a row of each sequence": Case(
        replace_row(TABLE["blocks.1.mlp_out"], 2, jnp.stack([ROW, -ROW])),
        lambda x: np.broadcast_to(np.outer([1, -1], np.arange(8.0) - 3.0)[:, None], x.shape),
        only(WHOLE, 2),
        position=2,
    ),
    "replace a row of heads": Case(
        replace_row(TABLE["blocks.0.z"], 5, HEADS),
        lambda x: np.broadcast_to(np.asarray(HEADS)[None, None], x.shape),
        only(WHOLE, 5),
        position=5,
    ),
    "replace queries": Case(
        replace_row(TABLE["blocks.1.pattern"], 3, jnp.array([0.5, 0, 0, 0.5, 0, 0])),
        lambda x: np.broadcast_to([0.5, 0, 0, 0.5, 0, 0], x.shape),
        only(WHOLE, WHOLE, 3),
        position=3,
    ),
    "zero a head": Case(zero_head(MODEL, 1, 0), np.zeros_like, only(WHOLE, WHOLE, 0)),
    "remove a block": Case(remove_block(MODEL, 1), np.zeros_like, everywhere),
}


@pytest.fixture(scope="module")
def params():
    return init(MODEL, jax.random.key(0))


@pytest.fixture(scope="module")
def plain(params):
    return run(MODEL, params, TOKENS, capture=list(TABLE))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_edit_changes_what_it_should_and_nothing_before_or_beside_it(case, params, plain):
    logits, after = run(MODEL, params, TOKENS, capture=list(TABLE), edits=case.edits)
    before, after = jax.device_get((plain[1], after))
    for name in case.edits:
        where, x = case.where(TABLE[name].shape), before[name]
        np.testing.assert_allclose(after[name][where], case.expected(x.astype(np.float64))[where], **ROUNDING)
        np.testing.assert_array_equal(after[name][~where], x[~where])
        assert not np.array_equal(after[name], x)
    assert float(jnp.abs(logits - plain[0]).max()) > 1e-3
    for name, site in TABLE.items():
        # Under the causal mask, an edit of one position reaches none before it, as query or as key.
        early = tuple(slice(case.position) if letter in "TS" else WHOLE for letter in site.axes)
        untouched = ... if order(name) < min(map(order, case.edits)) else early
        np.testing.assert_array_equal(after[name][untouched], before[name][untouched], err_msg=name)


def test_clamp_leaves_a_zero_vector_and_its_gradient_alone():
    x = jnp.zeros((2, 3))
    np.testing.assert_array_equal(Clamp(2.0, 3.0)(x), x)
    np.testing.assert_array_equal(jax.grad(lambda x: Clamp(2.0, 3.0)(x).sum())(x), jnp.ones_like(x))


def test_forcing_attention_keeps_the_mass_of_a_row():
    # Also where the rows do not sum to one, and where one has nothing on other keys.
    x = jnp.array([[0.2, 0.3, 0.1], [0.5, 0.0, 0.0]])
    forced = ForceAttention(0, 0.4)(x)
    np.testing.assert_allclose(forced, [[0.4, 0.15, 0.05], [0.5, 0.0, 0.0]], rtol=1e-6)
    # A key and a weight for each row.
    forced = ForceAttention(jnp.array([[2], [1]]), jnp.array([[0.5], [0.2]]))(x)
    np.testing.assert_allclose(forced, [[0.04, 0.06, 0.5], [0.3, 0.2, 0.0]], rtol=1e-6)


@pytest.mark.parametrize(
    "edit",
    [
        Set(jnp.nan, False),
        Add(0.0),
        Add(jnp.inf, False),
        Scale(1.0),
        Scale(jnp.nan, False),
        Freeze(),
        Clamp(0.0, jnp.inf),
        Clamp(jnp.nan, jnp.nan, False),
        [Add(jnp.nan, False), Scale(1.0)],
        [],
    ],
    ids=str,
)
def test_an_edit_of_nothing_moves_no_bit(edit, params, plain):
    logits, _ = run(MODEL, params, TOKENS, edits=dict.fromkeys(TABLE, edit))
    np.testing.assert_array_equal(logits, plain[0])


def test_forcing_no_row_moves_no_bit(params, plain):
    edits = {f"blocks.{layer}.pattern": ForceAttention(0, 0.5, False) for layer in (0, 1)}
    np.testing.assert_array_equal(run(MODEL, params, TOKENS, edits=edits)[0], plain[0])


def test_freeze_stops_the_gradient_where_it_holds(params, plain):
    def gradient(edits):
        def loss(p):
            return jnp.square(run(MODEL, p, TOKENS, edits=edits)[0]).sum()

        return jax.jit(jax.grad(loss))(params)["blocks_1"]

    free = gradient({})
    frozen = gradient({"blocks.1.v": Freeze(at(TABLE["blocks.1.v"], N=0))})
    np.testing.assert_array_equal(frozen["W_V"][:, :4], 0)  # the columns of head 0
    assert float(jnp.abs(free["W_V"][:, :4]).min()) > 0
    # No value has changed, but two compilations may run float32 sums in another order.
    np.testing.assert_allclose(frozen["W_V"][:, 4:], free["W_V"][:, 4:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(frozen["W_Q"], free["W_Q"], rtol=1e-5, atol=1e-6)


def test_several_edits_of_a_site_apply_in_order(params, plain):
    x = plain[1]["blocks.0.mlp_out"]
    for edits, expected in (
        ([Add(1.0), Scale(2.0), Freeze()], (x + 1) * 2),
        ((Scale(2.0), Add(1.0)), x * 2 + 1),
    ):
        _, captured = run(MODEL, params, TOKENS, capture=["blocks.0.mlp_out"], edits={"blocks.0.mlp_out": edits})
        np.testing.assert_array_equal(captured["blocks.0.mlp_out"], expected)


def test_merged_edits_apply_in_order_at_each_site(params, plain):
    heads = merge(zero_head(MODEL, 0, 0), zero_head(MODEL, 0, 1), {"embed": Scale(2.0)}, {"embed": [Add(1.0)]})
    assert set(heads) == {"blocks.0.z", "embed"}
    logits, captured = run(MODEL, params, TOKENS, capture=["embed", "blocks.0.z"], edits=heads)
    np.testing.assert_array_equal(captured["blocks.0.z"], 0)
    np.testing.assert_array_equal(captured["embed"], plain[1]["embed"] * 2 + 1)
    # Merging what is merged changes nothing.
    np.testing.assert_array_equal(run(MODEL, params, TOKENS, edits=merge(heads, {}))[0], logits)


@pytest.mark.parametrize("left_out", ["layers_without_attention", "layers_without_mlp"])
def test_a_removed_block_is_the_identity(left_out, params, plain):
    # In a model whose other block lacks one part, too: there is nothing to set to zero there.
    model = Transformer(7, 6, TransformerConfig(n_layers=2, n_heads=2, d_model=8, **{left_out: (0,)}))
    names = ["blocks.0.resid_pre", "blocks.0.resid_post", "blocks.1.resid_post"]
    edits = remove_block(model, 0)
    assert len(edits) == 1
    _, captured = run(model, params, TOKENS, capture=names, edits=edits)
    np.testing.assert_array_equal(captured["blocks.0.resid_post"], captured["blocks.0.resid_pre"])
    assert not np.array_equal(captured["blocks.1.resid_post"], captured["blocks.0.resid_post"])


def test_at_picks_by_index():
    site = TABLE["blocks.0.pattern"]
    expected = np.zeros((1, 2, 6, 6), bool)
    expected[:, 1, 4:, [0, 5]] = True
    for queries, keys in ((slice(4, None), [0, 5]), ([4, -1], np.array([0, 5])), (jnp.array([-2, 5]), (0, -1))):
        where = at(site, N=np.int64(1), T=queries, S=keys)
        np.testing.assert_array_equal(np.broadcast_to(where, expected.shape), expected)
    assert not at(site, T=[]).any()


def test_mistakes(params):
    def edited(**edits):
        run(MODEL, params, TOKENS, edits={name.replace("__", "."): edit for name, edit in edits.items()})

    bare = Transformer(7, 6, TransformerConfig(n_heads=2, d_model=8, layers_without_attention=(0,)))
    for message, mistake in (
        ("low = 2.0 above high = 1.0", lambda: edited(embed=Clamp(2.0, 1.0))),
        ("ForceAttention edits attention weights, but 'embed' has none", lambda: edited(embed=ForceAttention(0, 0.5))),
        (
            "has 6 keys, but key 6 was given; choose from 0 to 5",
            lambda: edited(blocks__0__pattern=ForceAttention(6, 0.5)),
        ),
        ("low of shape .* must broadcast to .2, 6, 1", lambda: edited(embed=Clamp(jnp.zeros((2, 6, 8)), 1.0))),
        ("edit of 'embed' must be an Edit or several, but float was given", lambda: edited(embed=0.0)),
        ("edit of 'embed' must be an Edit or several, but float was given", lambda: edited(embed=[Add(1.0), 0.0])),
        (r"factor of shape \(3,\)", lambda: edited(embed=[Add(1.0), Scale(jnp.ones(3))])),
        ("2 blocks, but block 2 was given; choose from 0 to 1", lambda: zero_head(MODEL, 2, 0)),
        ("2 blocks, but block -1 was given", lambda: remove_block(MODEL, -1)),
        ("block 1 has 2 heads, but head 2 was given; choose from 0 to 1", lambda: zero_head(MODEL, 1, 2)),
        ("block 0 has no attention", lambda: zero_head(bare, 0, 0)),
        ("'embed' has 6 positions, but position 6 was given; choose", lambda: replace_row(TABLE["embed"], 6, ROW)),
        (r"value of shape \(3,\), but it must", lambda: edited(**replace_row(TABLE["embed"], 1, jnp.ones(3)))),
        ("has the axes B, T, D, but not 'N'", lambda: at(TABLE["embed"], N=0)),
        ("index 6 does not exist; choose from 0 to 5", lambda: at(TABLE["embed"], T=[0, 6])),
    ):
        with pytest.raises(ValueError, match=message):
            mistake()
