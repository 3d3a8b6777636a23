"""Readings of layers and heads against float64 loops over full attention maps; batches; padding; controls."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink import scanning
from jaxsink.attention import PerHeadGate, Softmax, Wrapped
from jaxsink.models import Decoder, DecoderConfig, Encoder, EncoderConfig, init
from jaxsink.probing import run
from jaxsink.scanning import attention_maps, finalise_scan, init_scan, readings, update_scan

T = 12
DECODER = Decoder(DecoderConfig(vocab_size=13, n_layers=3, n_heads=4, n_key_heads=2, head_size=4, d_model=8, d_mlp=12))
ENCODER = Encoder(EncoderConfig(vocab_size=13, n_layers=2, n_heads=2, d_model=8, d_mlp=12, max_length=T))
MODELS = {"decoder": DECODER, "encoder": ENCODER}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 13, (4, T)), jnp.int32)
# Of the rows, the first is full, the last has a single token.
LENGTHS = np.array([T, 7, 7, 1])
RIGHT = np.arange(T)[None, :] < LENGTHS[:, None]
# float32 sums of at most 100 terms of order one, some blocks deep, against float64.
F32 = {"rtol": 2e-4, "atol": 2e-5}


@functools.cache
def fresh(model):
    # The usual start (normal, .02) is so small that attention is uniform.
    return jax.tree.map(lambda x: x * 40 if x.ndim == 2 else x, init(model, jax.random.key(3)))


@functools.cache
def oracle(kind, b, length):
    """Loops over the maps of the first tokens of one sample: a dict of arrays with a leading axis L."""
    model, params, tokens = MODELS[kind], fresh(MODELS[kind]), TOKENS[b : b + 1, :length]
    names = ("pattern", "v", "z", "resid_post")
    sites = [f"blocks.{layer}.{name}" for layer in range(model.config.n_layers) for name in names]
    _, found = jax.jit(lambda params, tokens: run(model, params, tokens, capture=sites))(params, tokens)
    causal = isinstance(model, Decoder)
    layers = []
    for layer in range(model.config.n_layers):
        weights, v, z, resid = (np.asarray(found[f"blocks.{layer}.{name}"][0], np.float64) for name in names)
        n_heads, length, _ = weights.shape
        received = [sum(weights[n, q, k] for n in range(n_heads) for q in range(length)) for k in range(length)]
        sink = max(range(length), key=lambda k: received[k])
        after = [q for q in range(length) if (q > sink if causal else q != sink)]
        others = [t for t in range(length) if t != sink]
        value = [np.sqrt(sum(x * x for x in v[t].ravel())) for t in range(length)]
        norm = [np.sqrt(sum(x * x for x in resid[t])) for t in range(length)]
        output = [[np.sqrt(sum(x * x for x in z[t, n])) for t in range(length)] for n in range(n_heads)]
        entropy = [
            np.mean([-sum(w * np.log(w) for w in weights[n, q] if w > 0) for q in range(length)])
            for n in range(n_heads)
        ]
        seen = [[q for q in range(length) if q >= k or not causal] for k in range(length)]
        profile = [[np.mean([weights[n, q, k] for q in seen[k]]) for k in range(length)] for n in range(n_heads)]
        sizes = sorted(abs(x) for x in resid.ravel())
        middle = (sizes[(len(sizes) - 1) // 2] + sizes[len(sizes) // 2]) / 2

        def mean(values):
            return np.mean(values) if len(values) else np.nan

        layers.append(
            {
                "sink_position": sink,
                "sink_mass": [mean([weights[n, q, sink] for q in after]) for n in range(n_heads)],
                "mass_on_first": [mean([weights[n, q, 0] for q in range(1, length)]) for n in range(n_heads)],
                "received_by_first": [profile[n][0] for n in range(n_heads)],
                "first_is_sink": [float(profile[n][0] > 0.3) for n in range(n_heads)],
                "value_ratio": value[sink] / np.median([value[t] for t in others]) if others else np.nan,
                "resid_norm_sink": norm[sink] if others else np.nan,
                "resid_norm_median": np.median([norm[t] for t in others]) if others else np.nan,
                "entropy": entropy,
                "output_norm": [np.mean(output[n]) for n in range(n_heads)],
                "last_output_norm": [output[n][-1] for n in range(n_heads)],
                "received": np.mean(profile, axis=0),
                "sink_magnitudes": np.abs(resid[sink]),
                "massive": sum(x > 100 and x > 1000 * middle for x in sizes),
                "max_median_ratio": sizes[-1] / middle,
                "infinity_norm": sizes[-1],
            }
        )
    return {name: np.stack([np.asarray(layer[name], np.float64) for layer in layers]) for name in layers[0]}


def flat(found):
    """By name, with positions and scores of heads among the others."""
    layers = found.layers._asdict()
    return layers | layers["head_scores"]._asdict() | {"sink_position": found.sink_position}


def check(found, kind, lengths):
    """That readings [L, B, ...] are those of the oracle for the samples cut to these lengths."""
    values = flat(found)
    for b, length in enumerate(lengths):
        for name, expected in oracle(kind, b, length).items():
            got = np.asarray(values[name])[:, b]
            if name == "received":
                assert np.isnan(got[:, length:]).all()
                got = got[:, :length]
            np.testing.assert_allclose(got, expected, **F32, err_msg=f"{name} of sample {b}")


def test_all_layers_share_one_compilation():
    # All jitted functions of a process share one cache: a long session before this test could evict what is counted.
    jax.clear_caches()
    for tokens in (TOKENS, TOKENS[::-1]):
        readings(DECODER, fresh(DECODER), tokens)
    assert scanning._layer._cache_size() == 1


@pytest.mark.parametrize("kind", MODELS)
def test_readings_are_what_the_maps_say(kind):
    model, params = MODELS[kind], fresh(MODELS[kind])
    found = readings(model, params, TOKENS)
    check(found, kind, [T] * 4)
    # Both ways to the weights on the sink were needed.
    assert (np.asarray(found.sink_position) > 0).any()
    masses, first = found.layers.sink_mass, found.layers.mass_on_first
    assert np.abs(np.asarray(masses - first)).max() > 0.01
    assert 0 < float(found.layers.first_is_sink.mean()) < 1


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(kind, side):
    model, params = MODELS[kind], fresh(MODELS[kind])
    valid = RIGHT if side == "right" else RIGHT[:, ::-1]
    # What stands at padding is some token, and read if anything forgets that it is none.
    tokens = np.full(valid.shape, 5, np.int32)
    tokens[valid] = np.asarray(TOKENS)[RIGHT]
    found = readings(model, params, jnp.asarray(tokens), {"valid": jnp.asarray(valid)})
    np.testing.assert_array_equal(found.tokens, LENGTHS)
    check(found, kind, LENGTHS)


def test_a_sample_of_padding_alone_says_nothing():
    params = fresh(DECODER)
    found = readings(DECODER, params, TOKENS, {"valid": jnp.asarray(RIGHT).at[3].set(False)})
    np.testing.assert_array_equal(found.sink_position[:, 3], -1)
    for name, value in flat(found).items():
        if name not in ("sink_position", "head_scores"):
            assert np.isnan(np.asarray(value)[:, 3]).all(), name
    scan = finalise_scan(update_scan(init_scan(), found))
    assert (scan.samples, scan.tokens) == (3, T + 7 + 7)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(scan.means))


def test_however_the_samples_are_split():
    model, params = DECODER, fresh(DECODER)

    def scanned(*batches):
        state = init_scan()
        for tokens, valid in batches:
            state = update_scan(state, readings(model, params, tokens, {"valid": jnp.asarray(valid)}))
        return finalise_scan(state)

    whole = scanned((TOKENS, RIGHT))
    # One batch is shorter, the other has two rows of padding alone.
    short, gaps = (TOKENS[1:3, :7], RIGHT[1:3, :7]), (TOKENS, RIGHT & np.array([[True], [False], [False], [True]]))
    split = scanned(short, gaps)
    assert (whole.samples, whole.tokens) == (split.samples, split.tokens) == (4, LENGTHS.sum())
    np.testing.assert_array_equal(whole.sink_position, split.sink_position)
    np.testing.assert_array_equal(whole.sink_position_share, split.sink_position_share)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **F32), whole.means, split.means)
    # Samples count alike: the mean of the oracle's numbers, of those samples that have them.
    each = [oracle("decoder", b, length) for b, length in enumerate(LENGTHS)]
    expected = np.nanmean([one["sink_mass"] for one in each], axis=0)
    np.testing.assert_allclose(whole.means.sink_mass, expected, **F32)
    for layer in range(model.config.n_layers):
        places = [int(one["sink_position"][layer]) for one in each]
        most = min(places, key=lambda place: (-places.count(place), place))
        assert whole.sink_position[layer] == most
        assert whole.sink_position_share[layer] == places.count(most) / 4
    shares = whole.means.head_scores.output_norm
    np.testing.assert_allclose(whole.output_share, shares / shares.mean(axis=1, keepdims=True), rtol=1e-6)


def test_memory_does_not_grow_with_the_samples():
    params, state, sizes = fresh(DECODER), init_scan(), []
    for _ in range(3):
        state = update_scan(state, readings(DECODER, params, TOKENS))
        sizes.append(sum(np.size(leaf) for leaf in jax.tree.leaves((state.totals, state.counts))))
    assert sizes[0] == sizes[1] == sizes[2]
    assert state.samples == 12


def test_no_array_of_all_queries_and_keys_is_made():
    # Longer than the sequences for which attention may hold them.
    length, model = 8192, Decoder(DecoderConfig(13, 1, 2, 1, 4, 8, 8))

    def temporary(compute):
        shapes = jax.eval_shape(lambda: init(model, jax.random.key(0)))
        lowered = jax.jit(compute).lower(shapes, jax.ShapeDtypeStruct((1, length), jnp.int32))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    all_weights = 4 * 2 * length**2
    assert temporary(lambda p, t: readings(model, p, t)) < all_weights / 4
    assert temporary(lambda p, t: run(model, p, t, capture={"blocks.0.pattern": jnp.max})) >= all_weights


def test_maps_are_those_of_run():
    params = fresh(DECODER)
    found = list(attention_maps(DECODER, params, TOKENS[:1]))
    assert len(found) == 3
    for layer, weights in enumerate(found):
        _, captured = run(DECODER, params, TOKENS[:1], capture=[f"blocks.{layer}.pattern"])
        assert weights.dtype == np.float16
        # float16 has 11 binary digits, and below 6e-5 fewer.
        np.testing.assert_allclose(weights, captured[f"blocks.{layer}.pattern"], rtol=1e-3, atol=1e-6)


def test_mistakes_are_named():
    gated = Decoder(DecoderConfig(13, 1, 2, 2, 4, 8, 8, attention=Wrapped(Softmax(), (PerHeadGate(),))))
    with pytest.raises(ValueError, match="needs the weights of a row map"):
        readings(gated, init(gated, jax.random.key(0)), TOKENS)
    with pytest.raises(ValueError, match="at least one sample"):
        finalise_scan(init_scan())
    with pytest.raises(ValueError, match="takes only valid"):
        readings(DECODER, fresh(DECODER), TOKENS, {"mask": jnp.asarray(RIGHT)})
