"""The control by the mask: rules against loops, what else stays bit for bit, and sweeps."""

import doctest
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink import control
from jaxsink.control import (
    all_but,
    hide_columns,
    isolate_rows,
    itself,
    itself_and_previous,
    last,
    only,
    open_rows,
    previous,
    restrict_rows,
)
from jaxsink.models import Decoder, DecoderConfig, Encoder, EncoderConfig, Transformer, TransformerConfig, init
from jaxsink.probing import Scale, Set, merge, run, stages, sweep_blocks

T = 6
TOKENS = jnp.array([[1, 5, 3, 2, 8, 0], [4, 4, 7, 0, 8, 6]])
SIZES = {"vocab_size": 9, "n_layers": 2, "d_model": 16, "d_mlp": 12}
MODELS = {
    "decoder": Decoder(DecoderConfig(**SIZES, n_heads=4, n_key_heads=2, head_size=4)),
    "encoder": Encoder(EncoderConfig(**SIZES, n_heads=2, max_length=T)),
    "registers": Transformer(9, T, TransformerConfig(n_layers=2, n_heads=2, d_model=16, registers=2)),
}
SITES = ("blocks.0.pattern", "blocks.0.v", "blocks.0.z", "blocks.0.attn_out", "blocks.1.pattern")
FIRST = "blocks.0.pattern"
# Each rule, and by a condition on one row i and one key j what it leaves.
RULES = {
    "itself": (itself, lambda i, j: i == j),
    "itself_and_previous": (itself_and_previous, lambda i, j: j in (i - 1, i)),
    "previous": (previous, lambda i, j: j == i - 1),
    "last_3": (last(3), lambda i, j: j in (i - 2, i - 1, i)),
    "all_but_0": (all_but(0), lambda i, j: j != 0),
    "only_1": (only(1), lambda i, j: j == 1),
}


def fresh(model):
    """Random numbers of the parameters' shapes, large enough that attention is far from even; `init` would compile."""
    rng = np.random.default_rng(11)
    shapes = jax.eval_shape(partial(init, model), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.4, x.dtype), shapes)


PARAMS = {kind: fresh(model) for kind, model in MODELS.items()}


@partial(jax.jit, static_argnames="model")
def _passed(params, edits, *, model):
    return run(model, params, TOKENS, capture=SITES, edits=edits)


def passed(kind, edits):
    """(logits, everything in SITES); edits of one form share a compilation."""
    return _passed(PARAMS[kind], edits, model=MODELS[kind])


def captured(kind, edits):
    return jax.tree.map(np.asarray, passed(kind, edits)[1])


def nowhere(edits):
    """The same edits, holding nowhere: another program could round otherwise."""
    return {name: Set(edit.value, edit.where & False) for name, edit in edits.items()}


def width(kind):
    return T + (2 if kind == "registers" else 0)


def seen_by_hand(kind, rows, leaves):
    """Which keys have weight in the first block, one pair at a time."""
    n = width(kind)
    table = np.zeros((n, n), bool)
    for i in range(n):
        for j in range(n):
            in_sight = kind == "encoder" or j <= i
            table[i, j] = in_sight and (i not in rows or leaves(i, j))
    return table


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", MODELS)
def test_a_rule_leaves_what_it_says(kind, rule):
    sees, leaves = RULES[rule]
    rows = [2, 4]
    edits = restrict_rows(MODELS[kind], [0], rows, sees, T)
    before, after = captured(kind, nowhere(edits))[FIRST], captured(kind, edits)[FIRST]
    expected = seen_by_hand(kind, rows, leaves)
    np.testing.assert_array_equal(after > 0, np.broadcast_to(expected, after.shape))
    assert (seen_by_hand(kind, [], leaves) != expected).any()
    others = [i for i in range(width(kind)) if i not in rows]
    np.testing.assert_array_equal(after[:, :, others], before[:, :, others])
    # What is left keeps its proportions, and the row its mass.
    kept = np.where(expected, before, 0)[:, :, rows]
    shares = kept / kept.sum(-1, keepdims=True)
    np.testing.assert_allclose(after[:, :, rows] / after[:, :, rows].sum(-1, keepdims=True), shares, rtol=1e-5)
    np.testing.assert_allclose(after[:, :, rows].sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["decoder", "encoder", "registers"])
def test_an_isolated_row_puts_out_its_own_value(kind):
    model, params, row = MODELS[kind], PARAMS[kind], 3
    edits = isolate_rows(model, [0], row, T)
    before, after = captured(kind, nowhere(edits)), captured(kind, edits)
    own = after["blocks.0.v"][:, row]
    own = own.repeat(model.config.n_heads // own.shape[1], axis=1)  # each key head serves a group of queries
    block = params["blocks_0"]
    out = own.reshape(2, -1) @ np.asarray(block["W_O"]) + np.asarray(block.get("b_O", np.zeros(16)), np.float32)
    # Sums of at most 16 terms in float32.
    np.testing.assert_allclose(after["blocks.0.attn_out"][:, row], out, rtol=2e-5, atol=2e-6)
    assert np.abs(before["blocks.0.attn_out"][:, row] - out).max() > 1e-2
    # Only in the blocks named: above, the row sees others, but it has become another.
    second = after["blocks.1.pattern"]
    assert (second[:, :, row, : row + 1] > 0).all()
    assert np.abs(second - before["blocks.1.pattern"]).max() > 1e-4


@pytest.mark.parametrize("kind", ["decoder", "encoder", "registers"])
@pytest.mark.parametrize("columns", [0, [1, 4]])
def test_hidden_columns_are_seen_by_themselves_alone(kind, columns):
    model, chosen = MODELS[kind], np.atleast_1d(columns)
    edits = hide_columns(model, [0], columns, T)
    before, after = captured(kind, nowhere(edits))[FIRST], captured(kind, edits)[FIRST]
    expected = seen_by_hand(kind, range(width(kind)), lambda i, j: j not in chosen or i == j)
    np.testing.assert_array_equal(after > 0, np.broadcast_to(expected, after.shape))
    kept = np.where(expected, before, 0)
    np.testing.assert_allclose(after, kept / kept.sum(-1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("kind", ["decoder", "registers"])
def test_an_open_row_is_even_over_all_positions(kind):
    model, n = MODELS[kind], width(kind)
    edits = open_rows(model, [0], [1, 2], T)
    before, after = captured(kind, nowhere(edits)), captured(kind, edits)
    np.testing.assert_array_equal(after[FIRST][:, :, [1, 2]], np.float32(1 / n))
    others = [0, *range(3, n)]
    np.testing.assert_array_equal(after[FIRST][:, :, others], before[FIRST][:, :, others])
    mean = after["blocks.0.v"].mean(1).repeat(model.config.n_heads // after["blocks.0.v"].shape[2], axis=1)
    np.testing.assert_allclose(after["blocks.0.z"][:, 1], mean, rtol=2e-5, atol=2e-6)


def test_what_a_row_sees_anyway_changes_no_bit():
    model = MODELS["decoder"]
    edits = restrict_rows(model, [0], range(T), last(T), T)
    assert list(edits) == ["blocks.0.attn_scores"]
    logits, found = passed("decoder", edits)
    plain, captured_of_plain = passed("decoder", nowhere(edits))
    np.testing.assert_array_equal(logits, plain)
    for name in SITES:
        np.testing.assert_array_equal(found[name], captured_of_plain[name])
    shorter = restrict_rows(model, [0], range(T), last(T - 1), T)
    moved = np.abs(np.asarray(passed("decoder", shorter)[0] - logits)).max((0, 2)) > 1e-4
    assert moved.tolist() == [False] * (T - 1) + [True]


def test_rows_may_be_traced():
    model, params = MODELS["decoder"], PARAMS["decoder"]
    makers = {
        "isolate": lambda row: isolate_rows(model, [0], row, T),
        "hide": lambda row: hide_columns(model, [0], row, T),
        "open": lambda row: open_rows(model, [0], row, T),
        "pair": lambda row: restrict_rows(model, [0], jnp.stack([row, row + 1]), itself_and_previous, T),
        "last": lambda row: restrict_rows(model, [0], T - 1, last(row + 1), T),
        "all_but": lambda row: restrict_rows(model, [0], T - 1, all_but(row), T),
        "only": lambda row: restrict_rows(model, [0], T - 1, only(row), T),
    }
    rows = jnp.array([1, 3])
    every = jax.jit(jax.vmap(lambda row: {name: make(row) for name, make in makers.items()}))(rows)
    for name, make in makers.items():
        ((site, edit),) = every[name].items()
        for k, row in enumerate(rows):
            one = make(row)[site]
            np.testing.assert_array_equal(edit.where[k], one.where, err_msg=name)
            assert edit.value[k] == np.float32(one.value)
    vmapped = jax.jit(jax.vmap(lambda row: run(model, params, TOKENS, edits=makers["isolate"](row))[0]))(rows)
    alone = jnp.stack([passed("decoder", makers["isolate"](row))[0] for row in rows])
    np.testing.assert_allclose(vmapped, alone, rtol=2e-5, atol=5e-6)
    assert np.abs(np.asarray(alone[1:] - alone[:-1])).max((1, 2, 3)).min() > 1e-3


def test_a_traced_row_that_would_be_left_nothing_stays_as_it_is():
    make = jax.jit(lambda row: restrict_rows(MODELS["decoder"], [0], row, previous, T))
    plain = captured("decoder", nowhere(make(1)))[FIRST]
    for row in (0, T):  # nothing before it, and no such row
        np.testing.assert_array_equal(captured("decoder", make(row))[FIRST], plain)
    assert not np.array_equal(captured("decoder", make(1))[FIRST], plain)


def test_block_by_block_gives_the_same():
    model, params = MODELS["decoder"], PARAMS["decoder"]
    # With another edit of the same site: the row stays hidden whatever its scores become.
    scaled = {f"blocks.{i}.attn_scores": Scale(0.5) for i in range(2)}
    edits = merge(isolate_rows(model, [0, 1], 2, T), scaled, hide_columns(model, [0, 1], 0, T))
    whole = captured("decoder", edits)
    isolated = np.broadcast_to(np.eye(T)[2], (2, model.config.n_heads, T))
    np.testing.assert_allclose(whole["blocks.1.pattern"][:, :, 2], isolated, atol=1e-7)
    assert (whole["blocks.1.pattern"][:, :, 1:, 0] == 0).all()
    for stage in stages(model, params, TOKENS, capture=["pattern"], edits=edits):
        expected = whole[f"blocks.{stage.layer}.pattern"]
        np.testing.assert_allclose(stage.captured["pattern"], expected, rtol=2e-5, atol=2e-6)
    each = jax.vmap(lambda row: isolate_rows(model, [0], row, T))(jnp.arange(T))
    within = {"attn_scores": each["blocks.0.attn_scores"]}
    ((_, logits),) = sweep_blocks(model, params, TOKENS, within, jnp.asarray, layers=[0])
    alone = passed("decoder", isolate_rows(model, [0], 4, T))[0]
    np.testing.assert_allclose(logits[4], alone, rtol=2e-5, atol=5e-6)
    assert np.abs(np.asarray(logits[3] - alone)).max() > 1e-3


def test_no_block_is_no_edit():
    assert restrict_rows(MODELS["decoder"], [], 2, itself, T) == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: isolate_rows(MODELS["decoder"], [1], T, T), "has 6 positions, but position 6 was given"),
        (lambda: isolate_rows(MODELS["decoder"], [1], [2, -1], T), "has 6 positions, but position -1"),
        (lambda: isolate_rows(MODELS["registers"], [1], T + 2, T), "has 8 positions, but position 8"),
        (lambda: hide_columns(MODELS["decoder"], [0], T, T), "has 6 positions, but position 6"),
        (lambda: open_rows(MODELS["decoder"], [0], T, T), "'blocks.0.pattern' has 6 positions, but position 6"),
        (lambda: isolate_rows(MODELS["decoder"], [2], 0, T), "2 blocks, but block 2"),
        (lambda: isolate_rows(MODELS["decoder"], [0], 1.0, T), "must be whole numbers"),
        (lambda: isolate_rows(MODELS["decoder"], [0], [[1]], T), r"must be whole numbers.*shape \[1, 1\]"),
        (lambda: restrict_rows(MODELS["decoder"], [0], [3, 0], previous, T), "leaves row 0 .* nothing to see"),
        (lambda: restrict_rows(MODELS["decoder"], [0], 2, only(3), T), "leaves row 2 .* nothing to see"),
        (lambda: restrict_rows(MODELS["encoder"], [0], 2, only(T), T), "leaves row 2 .* nothing to see"),
        (lambda: restrict_rows(MODELS["decoder"], [0], 2, lambda i, j: j, T), r"must return bool \[6, 6\]"),
        (lambda: last(0), "n must be at least 1"),
        (lambda: all_but(-1), "a position from 0, but -1"),
        (lambda: only(-1), "a position from 0, but -1"),
        (
            lambda: isolate_rows(Transformer(9, T, TransformerConfig(2, layers_without_attention=(1,))), [1], 2, T),
            "block 1 has no site 'attn_scores'",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_bidirectional_row_may_see_only_a_later_key():
    after = captured("encoder", restrict_rows(MODELS["encoder"], [0], 2, only(4), T))[FIRST]
    np.testing.assert_array_equal(after[:, :, 2] > 0, np.broadcast_to(np.eye(T)[4] > 0, (2, 2, T)))


def test_the_example_of_the_package_runs():
    result = doctest.testmod(control)
    assert result.attempted > 4
    assert result.failed == 0


def test_a_transformer_without_a_mask_can_see_what_comes_after():
    size = TransformerConfig(n_layers=2, d_model=16)
    unmasked, masked = Transformer(9, T, size, causal=False), Transformer(9, T, size)
    params, edits = fresh(unmasked), restrict_rows(unmasked, [0], 2, only(4), T)
    _, found = run(unmasked, params, TOKENS, capture=[FIRST], edits=edits)
    np.testing.assert_array_equal(found[FIRST][:, 0, 2], np.eye(T)[[4, 4]])
    with pytest.raises(ValueError, match=r"leaves row 2 of .* nothing to see"):
        restrict_rows(masked, [0], 2, only(4), T)
