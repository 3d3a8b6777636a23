"""Decoding step by step is attention over the whole text, under the mask that the policy amounts to."""

import doctest
import importlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import attention as loops
from oracles import decoding as oracle

from jaxsink import attention
from jaxsink.attention import (
    Cache,
    Causal,
    Inputs,
    KeepAll,
    KeepHeavyHitters,
    KeepWindow,
    Policy,
    WindowWithSinks,
    Wrapped,
    Wrapper,
    attend,
    decode,
    rope,
    wrappers,
)

# float32: a few roundings of 2^-24 in sums of up to 11 terms of a few units, in two orders.
F32 = {"rtol": 1e-5, "atol": 1e-5}
B, T, N, K, H, HV, D = 2, 11, 4, 2, 6, 3, 5
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


Q, KEYS, V, X = normal(B, T, N, H), normal(B, T, K, H), normal(B, T, K, HV), normal(B, T, D)
COTANGENT = normal(B, T, N, HV)
SINKS = {"sink_logit": jnp.asarray(normal(N))}
# Row map, its parameters, its loops. Elastic counts the keys that a row sees, ReLU reads the position of the query.
CASES: dict[str, tuple[attention.RowMap, Any, Any]] = {
    "softmax": (attention.Softmax(), {}, loops.softmax),
    "softmax-1": (attention.SoftmaxN(), {}, loops.softmax_n(1.0)),
    "sink-logit": (attention.SinkLogit(), SINKS, loops.sink_logit),
    "sigmoid": (attention.Sigmoid(), {}, loops.sigmoid(0.0)),
    "softpick": (attention.Softpick(), {}, loops.softpick(1e-6)),
    "relu": (attention.ReLU(), {}, loops.relu),
    "elastic": (attention.Elastic(), {"tau": jnp.array([-1.0, 0.0, -0.5, 0.3])}, loops.elastic),
}
cases = pytest.mark.parametrize("case", CASES)
ONE_BY_ONE, CHUNKS = (1,) * T, (4, 1, 1, 4, 1)
cuts = pytest.mark.parametrize("calls", [ONE_BY_ONE, CHUNKS], ids=["one by one", "in chunks"])


def empty(policy: Policy, calls: Sequence[int] = (1,), batch: int = B, **changed: Any) -> Cache:
    sizes = {"capacity": policy.capacity(T, max(calls)), "key_heads": K, "head_size": H, "value_size": HV}
    return Cache.empty(batch, **(sizes | changed))


# As a user would: the step is compiled.
step = jax.jit(decode, static_argnames=("variant", "policy", "rope", "scale", "softcap"))


def tokens(start: int, new: int = 1) -> tuple[np.ndarray, ...]:
    return tuple(array[:, start : start + new] for array in (Q, KEYS, V))


def decoded(
    variant: Any, policy: Policy, calls: Sequence[int] = CHUNKS, x: np.ndarray | None = None, **options: Any
) -> np.ndarray:
    """Output of the text, cut into calls."""
    cache, outs, start = empty(policy, calls), [], 0
    for new in calls:
        own = {} if x is None else {"x": x[:, start : start + new]}
        out, cache = step(cache, *tokens(start, new), variant=variant, policy=policy, **own, **options)
        outs.append(out)
        start += new
    return np.concatenate(outs, axis=1)


@cases
def test_a_cache_of_all_keys_is_causal_attention(case: str) -> None:
    variant, params, row = CASES[case]
    found = decoded(variant, KeepAll(), params=params)
    np.testing.assert_allclose(found, attend(Q, KEYS, V, variant, params=params, mask=Causal()), **F32)
    np.testing.assert_allclose(found, oracle.decode(Q, KEYS, V, row, params, ONE_BY_ONE, oracle.all_of_them), **F32)


@cases
def test_a_window_is_attention_under_its_mask(case: str) -> None:
    variant, params, row = CASES[case]
    found = decoded(variant, KeepWindow(3, 2), params=params)
    mask = Causal() & WindowWithSinks(3, 2)
    np.testing.assert_allclose(found, attend(Q, KEYS, V, variant, params=params, mask=mask), **F32)
    np.testing.assert_allclose(found, oracle.decode(Q, KEYS, V, row, params, ONE_BY_ONE, oracle.window(3, 2)), **F32)


@cuts
@pytest.mark.parametrize(("size", "sinks"), [(3, 0), (1, 1), (4, 6), (20, 1)])
def test_windows_of_any_size(size: int, sinks: int, calls: Sequence[int]) -> None:
    found = decoded(attention.ReLU(), KeepWindow(size, sinks), calls)
    expected = attend(Q, KEYS, V, attention.ReLU(), mask=Causal() & WindowWithSinks(size, sinks))
    np.testing.assert_allclose(found, expected, **F32)


@cases
def test_heavy_hitters_are_those_of_the_loops(case: str) -> None:
    variant, params, row = CASES[case]
    found = decoded(variant, KeepHeavyHitters(2, 2), params=params)
    expected = oracle.decode(Q, KEYS, V, row, params, CHUNKS, oracle.heavy_hitters(2, 2))
    np.testing.assert_allclose(found, expected, **F32)
    assert np.abs(found - decoded(variant, KeepWindow(5), params=params)).max() > 1e-2


@cuts
@pytest.mark.parametrize(("budget", "recent"), [(3, 0), (1, 4)])
def test_heavy_hitters_of_any_number(budget: int, recent: int, calls: Sequence[int]) -> None:
    found = decoded(attention.Softmax(), KeepHeavyHitters(budget, recent), calls)
    expected = oracle.decode(Q, KEYS, V, loops.softmax, {}, calls, oracle.heavy_hitters(budget, recent))
    np.testing.assert_allclose(found, expected, **F32)


def test_heavy_hitters_without_a_budget_are_a_window() -> None:
    found = decoded(attention.Softmax(), KeepHeavyHitters(0, 3), ONE_BY_ONE)
    np.testing.assert_allclose(found, decoded(attention.Softmax(), KeepWindow(4)), **F32)


def test_the_youngest_of_equally_heavy_keys_leaves() -> None:
    held = jnp.array([[7, 3, 9, 5], [3, 9, 5, 7]])
    cache = replace(empty(KeepAll(), capacity=4), positions=held, length=jnp.array([10, 10]))
    found = KeepHeavyHitters(2, 1).evicted(cache).positions
    np.testing.assert_array_equal(found, [[-1, 3, 9, 5], [3, 9, 5, -1]])


def test_vmap_over_heads_gives_each_head_heavy_hitters_of_its_own() -> None:
    policy = KeepHeavyHitters(2, 2)
    heads = jax.jit(jax.vmap(partial(decode, policy=policy)))
    split = [np.moveaxis(array, 2, 0)[:, :, :, None] for array in (Q[:, :, ::2], KEYS, V)]  # [K, B, T, 1, H]
    cache = jax.tree.map(lambda array: jnp.stack([array] * K), empty(policy, key_heads=1))
    outs = []
    for t in range(T):
        out, cache = heads(cache, *(array[:, :, t : t + 1] for array in split))
        outs.append(out)
    for head, found in enumerate(np.concatenate(outs, axis=2)):
        alone = [array[head] for array in split]
        expected = oracle.decode(*alone, loops.softmax, {}, ONE_BY_ONE, oracle.heavy_hitters(2, 2))
        np.testing.assert_allclose(found, expected, **F32)
    assert np.any(np.sort(cache.positions[0]) != np.sort(cache.positions[1]))


POLICIES = (KeepAll(), KeepWindow(3, 2), KeepHeavyHitters(2, 2))
policies = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)


def scanned(policy: Policy, capacity: int, q: Any, k: Any, v: Any, params: Any) -> jax.Array:
    def one(cache: Cache, token: Any) -> tuple[Cache, jax.Array]:
        new = (array[:, None] for array in token)
        out, cache = decode(cache, *new, attention.SinkLogit(), params=params, policy=policy)
        return cache, out[:, 0]

    text = tuple(jnp.moveaxis(array, 1, 0) for array in (q, k, v))
    return jnp.moveaxis(jax.lax.scan(one, empty(policy, capacity=capacity), text)[1], 0, 1)


@policies
@pytest.mark.parametrize("spare", [0, 3])
def test_a_scan_and_spare_slots_do_not_change_it(policy: Policy, spare: int) -> None:
    found = jax.jit(scanned, static_argnums=(0, 1))(policy, policy.capacity(T) + spare, Q, KEYS, V, SINKS)
    np.testing.assert_allclose(found, decoded(attention.SinkLogit(), policy, ONE_BY_ONE, params=SINKS), **F32)


def test_gradients_through_a_scan_are_those_of_attention() -> None:
    def by_steps(*at: Any) -> jax.Array:
        return jnp.sum(scanned(KeepWindow(3, 1), 4, *at) * COTANGENT)

    def at_once(q: jax.Array, k: jax.Array, v: jax.Array, params: Any) -> jax.Array:
        mask = Causal() & WindowWithSinks(3, 1)
        return jnp.sum(attend(q, k, v, attention.SinkLogit(), params=params, mask=mask) * COTANGENT)

    found, expected = (jax.jit(jax.grad(f, range(4)))(Q, KEYS, V, SINKS) for f in (by_steps, at_once))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.abs(b).max() > 0.1
        np.testing.assert_allclose(a, b, **F32)


@policies
def test_sequences_of_unequal_length_are_decoded_together(policy: Policy) -> None:
    """Stacked caches, the next token of each sequence at another position."""
    caches, outs, lengths = [], [], (3, 9)
    for b, length in enumerate(lengths):
        cache = empty(policy, batch=1)
        for t in range(length + 1):
            before = cache
            out, cache = step(cache, *(a[b : b + 1] for a in tokens(t)), variant=attention.ReLU(), policy=policy)
        caches.append(before)
        outs.append(out)
    stacked = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *caches)
    new = (np.stack([array[b, length] for b, length in enumerate(lengths)])[:, None] for array in (Q, KEYS, V))
    found, cache = step(stacked, *new, variant=attention.ReLU(), policy=policy)
    np.testing.assert_allclose(found, np.concatenate(outs), **F32)
    assert cache.length.tolist() == [4, 10]


turn = partial(rope, base=100.0)


@pytest.mark.parametrize("policy", [KeepAll(), KeepWindow(20, 2), KeepHeavyHitters(9, 2)], ids=str)
def test_numbers_in_the_cache_are_positions_as_long_as_nothing_was_evicted(policy: Policy) -> None:
    q, k = (turn(jnp.asarray(array), np.arange(T)) for array in (Q, KEYS))
    found = decoded(attention.Softmax(), policy, rope=turn)
    np.testing.assert_allclose(found, attend(q, k, V, mask=Causal()), **F32)
    assert np.abs(found - attend(Q, KEYS, V, mask=Causal())).max() > 1e-2


@pytest.mark.parametrize("case", ["softmax", "sink-logit", "relu"])
def test_keys_are_numbered_anew_after_evictions(case: str) -> None:
    variant, params, row = CASES[case]
    found = decoded(variant, KeepWindow(3, 2), params=params, rope=turn)
    one_by_one = oracle.decode(Q, KEYS, V, row, params, ONE_BY_ONE, oracle.window(3, 2), base=100.0)
    np.testing.assert_allclose(found, one_by_one, **F32)
    heavy = decoded(variant, KeepHeavyHitters(2, 2), params=params, rope=turn)
    expected = oracle.decode(Q, KEYS, V, row, params, CHUNKS, oracle.heavy_hitters(2, 2), base=100.0)
    np.testing.assert_allclose(heavy, expected, **F32)
    q, k = (turn(jnp.asarray(array), np.arange(T)) for array in (Q, KEYS))
    in_text = attend(q, k, V, variant, params=params, mask=Causal() & WindowWithSinks(3, 2))
    np.testing.assert_allclose(found[:, :5], in_text[:, :5], **F32)  # nothing evicted yet
    assert np.abs(found - in_text)[:, 5:].max() > 1e-2


@pytest.mark.parametrize("turned", [False, True])
def test_scale_cap_and_null_logit_are_those_of_attend(turned: bool) -> None:
    null = normal(B, N, T)
    cache, outs, start = empty(KeepAll()), [], 0
    options: dict[str, Any] = {"scale": 0.7, "softcap": 2.0}
    for new in CHUNKS:
        own = null[:, :, start : start + new]
        rotation = {"rope": turn} if turned else {}
        out, cache = step(cache, *tokens(start, new), null_logit=own, **options, **rotation)
        outs.append(out)
        start += new
    q, k = (turn(jnp.asarray(array), np.arange(T)) if turned else array for array in (Q, KEYS))
    expected = attend(q, k, V, null_logit=null, mask=Causal(), **options)
    np.testing.assert_allclose(np.concatenate(outs, axis=1), expected, **F32)


PER_TOKEN = (
    wrappers.QKNorm(),
    wrappers.ValueGate(),
    wrappers.KeyBias(),
    wrappers.KeyValueBias(),
    wrappers.ElementwiseGate(),
    wrappers.HeadRMSNorm(),
)


@pytest.mark.parametrize("wrapper", PER_TOKEN, ids=lambda wrapper: wrapper.name)
def test_wrappers_that_treat_each_token_by_itself(wrapper: Wrapper) -> None:
    variant = Wrapped(attention.Softmax(), (wrapper,))
    dims = attention.AttentionDims(N, K, H, HV, D)
    params = jax.tree.map(lambda leaf: leaf + normal(*leaf.shape), variant.init(jax.random.key(0), dims))
    expected = attend(Q, KEYS, V, variant, params=params, x=X, mask=Causal() & WindowWithSinks(3, 2))
    np.testing.assert_allclose(decoded(variant, KeepWindow(3, 2), x=X, params=params), expected, **F32)
    # A rotation by nothing leaves the numbers as they are, and takes the way of one row of the batch per query.
    still = decoded(variant, KeepWindow(3, 2), x=X, params=params, rope=lambda array, positions: array)
    np.testing.assert_allclose(still, expected, **F32)
    assert np.abs(expected - attend(Q, KEYS, V, mask=Causal() & WindowWithSinks(3, 2))).max() > 1e-2


def test_weights_that_depend_on_the_order_of_the_keys() -> None:
    found = decoded(attention.StickBreaking(), KeepAll())
    np.testing.assert_allclose(found, attend(Q, KEYS, V, attention.StickBreaking(), mask=Causal()), **F32)
    for policy in (KeepWindow(3), KeepHeavyHitters(2, 2)):
        with pytest.raises(ValueError, match="policy must keep keys in order for StickBreaking"):
            decode(empty(policy), *tokens(0), attention.StickBreaking(), policy=policy)


def test_a_cache_that_is_outgrown_raises_or_gives_nan() -> None:
    cache = empty(KeepAll(), capacity=5)
    _, full = step(cache, *tokens(0, 5))
    with pytest.raises(ValueError, match=r"cache must have 6 slots for 1 new tokens .* but has 5; make it with"):
        decode(full, *tokens(5))
    out, after = step(full, *tokens(5))
    assert np.all(np.isnan(out))
    np.testing.assert_array_equal(after.keys, full.keys)
    _, cache = step(cache, *tokens(0, 3))
    out, _ = step(cache, *tokens(3, 4))
    np.testing.assert_allclose(out[:, :2], attend(Q, KEYS, V, mask=Causal())[:, 3:5], **F32)
    assert np.all(np.isnan(out[:, 2:]))


def test_low_and_high_precision() -> None:
    policy = KeepWindow(3, 1)
    low = jax.tree.map(lambda array: jnp.asarray(array, jnp.bfloat16), (Q, KEYS, V))
    gate = Wrapped(attention.Softmax(), (wrappers.HeadRMSNorm(),))
    for variant in (attention.Softmax(), gate):
        params = variant.init(jax.random.key(0), attention.AttentionDims(N, K, H, HV))
        cache, outs = empty(policy, dtype=jnp.bfloat16), []
        for t in range(T):
            new = (array[:, t : t + 1] for array in low)
            out, cache = step(cache, *new, variant=variant, policy=policy, params=params)
            outs.append(out)
        found = jnp.concatenate(outs, axis=1)
        expected = attend(*low, variant, params=params, mask=Causal() & WindowWithSinks(3, 1))
        assert found.dtype == cache.keys.dtype == jnp.bfloat16
        # Cached is what came, so that only the output is rounded, to 8 significant bits, each time by half a unit.
        np.testing.assert_allclose(found.astype(jnp.float32), expected.astype(jnp.float32), rtol=2**-7)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), (Q, KEYS, V))
        cache = empty(policy, calls=(T,), dtype=jnp.float64)
        found, cache = step(cache, *wide, policy=policy, rope=lambda x, positions: x)
        assert cache.positions.dtype == cache.length.dtype == jnp.int32
        # float64: a few roundings of 2^-53.
        np.testing.assert_allclose(found, attend(*wide, mask=Causal() & WindowWithSinks(3, 1)), rtol=1e-13, atol=1e-13)


class SetsAMask(Wrapper):
    name: ClassVar[str] = "sets_a_mask"
    per_token: ClassVar[bool] = True

    def before(self, inputs: Inputs, params: Any) -> Inputs:
        return replace(inputs, mask=Causal())


def one(**changed: Any) -> Any:
    q, k, v = tokens(0)
    arguments = {"cache": empty(KeepAll()), "q": q, "k": k, "v": v} | changed
    return decode(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KeepWindow(0), "size must be a whole number of at least 1, but is 0"),
        (lambda: KeepWindow(2, -1), "sinks must be a whole number of at least 0, but is -1"),
        (lambda: KeepHeavyHitters(-1, 2), "budget must be"),
        (lambda: KeepHeavyHitters(2, 1.5), "recent must be"),
        (lambda: Cache.empty(2, 0, 1, 4), "capacity must be a whole number of at least 1, but is 0"),
        (lambda: one(cache=empty(KeepAll(), dtype=jnp.bfloat16)), "k and v must have the dtype of the cache, bfloat16"),
        (lambda: one(cache=empty(KeepAll(), key_heads=1)), r"k must have shape \(2, 1, 1, 6\) to go into this cache"),
        (lambda: one(cache=empty(KeepAll(), value_size=H)), r"v must have shape \(2, 1, 2, 6\) to go into this cache"),
        (lambda: one(q=Q[:1, :1]), "must agree in their batch B"),
        (
            lambda: one(cache=empty(KeepWindow(4, 1)), policy=KeepWindow(4, 2)),
            r"cache must have 6 slots for 1 new tokens .* under KeepWindow\(size=4, sinks=2\), but has 5",
        ),
        (
            lambda: step(empty(KeepWindow(4)), *tokens(0, 3), policy=KeepWindow(4)),
            "cache must have 6 slots for 3 new tokens .* but has 4; .* or pass fewer tokens at once",
        ),
        (
            lambda: one(variant=Wrapped(attention.Softmax(), (wrappers.ForgetGate(),)), x=X[:, :1]),
            "variant must be a row map or Wrapped in wrappers .* but is Wrapped with forget_gate; attend over",
        ),
        (
            lambda: one(variant=Wrapped(attention.Softmax(), (SetsAMask(),))),
            "wrappers that declare per_token must not set mask or bias",
        ),
        (lambda: one(variant=Wrapped(attention.Softmax(), (wrappers.ValueGate(),))), "x must be the array"),
    ],
)
def test_mistakes(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_examples_of_the_documentation_run() -> None:
    results = doctest.testmod(importlib.import_module("jaxsink.attention.decoding"))
    assert results.attempted
    assert not results.failed
