"""Round-to-nearest obeys its laws, and as an edit does what a loop does where it holds, and nothing beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxsink.models import Transformer, TransformerConfig, init
from jaxsink.probing import Add, Round, levels_of, merge, round_to_nearest, rounded_params, run, sites

PER = pytest.mark.parametrize("per", ["tensor", "channel", "token"])
MODEL = Transformer(7, 6, TransformerConfig(n_layers=2, n_heads=2, d_model=8))
TOKENS = jnp.array([[6, 0, 3, 2, 5, 1], [6, 1, 1, 4, 0, 2]])
SITE = "blocks.0.resid_post"
# Of float32, of three operations on an entry.
ROUNDING = 4e-7


def drawn(seed, shape=(3, 4, 5)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 10 ** np.float32(seed % 7 - 3)


@pytest.fixture(scope="module")
def params():
    return jax.jit(init, static_argnums=0)(MODEL, jax.random.key(0))


@jax.jit
def captured(params, edits):
    """Logits, and the site with the edits of it. Compiled, because one operation after the other takes longer."""
    logits, found = run(MODEL, params, TOKENS, capture=[SITE], edits=edits)
    return logits, found[SITE]


def largest(x, per):
    """The largest size among the entries that share a scale, by a loop."""
    out = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        shared = {"tensor": x, "channel": x[..., index[-1]], "token": x[index[:-1]]}[per]
        out[index] = np.abs(shared).max()
    return out


@PER
@pytest.mark.parametrize("bits", [2, 4, 8])
@given(seed=st.integers(0, 1000))
def test_rounding_keeps_to_its_grid_within_half_a_step(per, bits, seed):
    x, levels = drawn(seed), levels_of(bits)
    rounded, step = np.asarray(round_to_nearest(x, levels, per)), largest(x, per) / levels
    assert (np.abs(rounded - x) <= step * (0.5 + levels * ROUNDING)).all()
    number = rounded / step
    np.testing.assert_allclose(number, np.round(number), atol=levels * ROUNDING)
    assert np.abs(np.round(number)).max() == levels  # the last level is used, and none beyond
    np.testing.assert_allclose(round_to_nearest(rounded, levels, per), rounded, rtol=ROUNDING)


@PER
@given(seed=st.integers(0, 1000))
def test_the_unit_and_the_sign_do_not_matter(per, seed):
    x = drawn(seed)
    rounded = np.asarray(round_to_nearest(x, 7, per))
    # Powers of two move no digit.
    np.testing.assert_array_equal(round_to_nearest(x * -8, 7, per), rounded * -8)


def test_a_scale_is_shared_by_what_it_says():
    x = drawn(3)
    outlier = x.copy()
    outlier[0, 0, 0] = 1e3 * np.abs(x).max()
    for per, alone in (("channel", np.s_[..., 1:]), ("token", np.s_[:, 1:])):
        before, after = (np.asarray(round_to_nearest(y, 7, per)) for y in (x, outlier))
        np.testing.assert_array_equal(before[alone], after[alone])
    assert not np.asarray(round_to_nearest(outlier, 7, "tensor")).reshape(-1)[1:].any()


@PER
def test_zeros_and_the_smallest_numbers_stay_finite(per):
    np.testing.assert_array_equal(round_to_nearest(np.zeros((2, 3), np.float32), 7, per), 0)
    assert np.isfinite(round_to_nearest(np.full((2, 3), 1e-45, np.float32), 127, per)).all()


@PER
def test_what_is_left_out_stays_and_has_no_part_in_the_scale(per):
    x = drawn(4)
    x[:, 0] = 1e3
    where = np.arange(4)[:, None] > 0
    rounded = np.asarray(round_to_nearest(x, 7, per, where))
    np.testing.assert_array_equal(rounded[:, 0], x[:, 0])
    np.testing.assert_array_equal(rounded[:, 1:], round_to_nearest(x[:, 1:], 7, per))
    np.testing.assert_array_equal(round_to_nearest(x, 7, per, False), x)


def test_matrices_are_rounded_and_vectors_are_not(params):
    params = jax.tree.map(lambda x: x + 0.1234 if x.ndim == 1 else x, params)
    rounded = rounded_params(params, 4, "channel")
    for (path, before), (_, after) in zip(
        *(jax.tree_util.tree_leaves_with_path(tree) for tree in (params, rounded)), strict=True
    ):
        assert before.shape == after.shape
        changed = not np.array_equal(before, after)
        assert changed == (before.ndim > 1), path
    column = np.asarray(rounded["blocks_0"]["W_in"])[:, 0]
    assert len(np.unique(np.abs(column))) <= 8  # 7 levels of each sign, and zero


@pytest.mark.parametrize("per", ["tensor", "token"])
def test_an_edit_is_a_loop_over_the_site_in_company_of_others(params, per):
    where = (jnp.arange(6) > 0)[:, None]
    x = np.asarray(captured(params, {})[1]) + 1
    _, edited = captured(params, merge({SITE: Add(1.0)}, {SITE: Round(7, where, per)}))
    step = largest(x[:, 1:], per) / 7
    # The program with the edit may round its activations otherwise.
    np.testing.assert_allclose(edited[:, 0], x[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(edited[:, 1:], np.round(x[:, 1:] / step) * step, rtol=1e-5, atol=1e-6)


def test_an_edit_that_holds_nowhere_changes_no_bit_and_levels_can_be_traced(params):
    nowhere, everywhere = jnp.zeros((6, 1), bool), jnp.ones((6, 1), bool)
    plain = captured(params, {SITE: Round(jnp.float32(127), nowhere)})
    assert all(np.array_equal(*pair) for pair in zip(plain, captured(params, {}), strict=True))
    few, many = (
        np.abs(np.asarray(captured(params, {SITE: Round(jnp.float32(levels), everywhere)})[0] - plain[0])).max()
        for levels in (7, 32767)
    )
    assert few > 100 * many > 0


def test_levels_are_symmetric_so_that_the_lowest_integer_is_not_used():
    assert [levels_of(bits) for bits in (2, 4, 8)] == [1, 7, 127]


@pytest.mark.parametrize("bits", [1, 25])
def test_impossible_bits(bits):
    with pytest.raises(ValueError, match=rf"^bits must be from 2 to 24, but {bits} was given"):
        levels_of(bits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(3, np.float32), 7, "row"), "per must be one of tensor, channel, token, but 'row'"),
        ((np.ones(3, np.int32), 7), r"x must be a floating array .* dtype int32"),
        ((np.float32(1), 7), r"x must be a floating array \[..., D\], but has shape \(\)"),
        ((np.ones(3, np.float32), 0), "levels must be at least 1, but 0 was given"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        round_to_nearest(*arguments)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"blocks.2.resid_post": Round(7)}, "site 'blocks.2.resid_post' does not exist"),
        ({SITE: Round(0)}, "must have one number of levels from 1 up, but has 0"),
        ({SITE: Round(np.full(8, 7))}, "must have one number of levels"),
        ({SITE: Round(7, np.ones(5, bool))}, "it must broadcast to"),
        ({SITE: Round(7, per="head")}, "per must be one of tensor, channel, token, but 'head'"),
    ],
)
def test_edits_that_do_not_fit_are_refused(edits, message):
    assert SITE in sites(MODEL)
    with pytest.raises(ValueError, match=message):
        run(MODEL, {}, TOKENS, edits=edits)
