"""The chunked backend computes what `reference` does: outputs, probes and gradients, whatever the blocks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.attention import (
    CATALOGUE,
    AttentionDims,
    Causal,
    IsolateRows,
    Lengths,
    RowMap,
    Segments,
    SinkLogit,
    Softmax,
    Streaming,
    Window,
    WindowWithSinks,
    attend,
    attend_with_aux,
    chunked,
)

B, T, S, N, K, H, HV = 2, 7, 10, 4, 2, 3, 5
RNG = np.random.default_rng(0)
STREAMING = {name: make for name, make in CATALOGUE.items() if make.properties.streaming is not Streaming.SEARCH}
# Sums of some ten float64 numbers below 100, in another order.
CLOSE = {"rtol": 1e-11, "atol": 1e-11}


@pytest.fixture(autouse=True)
def _wide_and_small_blocks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(chunked, "ROWS", 3)
    monkeypatch.setattr(chunked, "COLUMNS", 4)
    with jax.enable_x64(True):
        yield


def _normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape))


IDS = RNG.integers(0, 3, size=(1, S))
MASKS: dict[str, Any] = {
    "none": lambda: None,
    "causal": Causal,
    "window": lambda: Causal() & Window(3),
    "window-with-sinks": lambda: Causal() & WindowWithSinks(2, 1),
    # Sequence 0 is empty for queries of segments that it lacks, and its last keys are padding.
    "lengths-and-segments": lambda: Lengths(np.array([4, 10])) & Segments(IDS[:, :T], IDS),
    "isolated": lambda: Causal() & IsolateRows(np.array([4, 6])),
    "dense": lambda: jnp.asarray(RNG.random((B, 1, T, S)) < 0.3),
    "dense-columns": lambda: jnp.asarray(RNG.random((1, N, 1, S)) < 0.5),
    "dense-rows": lambda: jnp.asarray(RNG.random((1, N, T, 1)) < 0.5),
}
BIASES = {"none": None, "full": (B, N, T, S), "keys": (1, 1, 1, S), "queries": (1, N, T, 1)}
# Compilation takes seconds, so that each variant gets one of them.
CASES = (("causal", "none", None), ("lengths-and-segments", "full", 2.0), ("dense", "keys", None))


def both(variant: RowMap, mask: Any, bias: Any, softcap: float | None, offset: Any = None) -> list[Any]:
    """Output, probes and gradients of the output and of the probes, for `reference` and for `chunked`."""
    params = jax.tree.map(lambda x: _normal(*x.shape), dict(variant.init(jax.random.key(0), AttentionDims(N, K, H))))
    total = variant.properties.has_total
    moving = {
        "q": 2.0 * _normal(B, T, N, H),
        "k": _normal(B, S, K, H),
        "v": _normal(B, S, K, HV),
        "params": params,
        "bias": None if bias is None else (_normal(*bias), _normal(1, N, T, 1), _normal(B, 1, 1, S)),
        "null_logit": _normal(B, N, T) if total else None,
        "scale": jnp.asarray(0.7),
    }
    probes = ("row_mass", "received", "on_keys", "on_groups", "entropy")
    want = probes + (("lse", "null_mass", "total") if total else ())
    groups, cotangent = jnp.asarray(RNG.random((B, 3, S)) < 0.5), _normal(B, T, N, HV)

    def loss(backend: str, moving: Any) -> Any:
        out, aux = attend_with_aux(
            variant=variant,
            mask=mask,
            softcap=softcap,
            query_offset=offset,
            backend=backend,
            want=want,
            keys=(0, 5, 9),
            groups=groups,
            **moving,
        )
        # Entropy is left out: where one weight is alone its derivative is one of log at rounding.
        seen = sum(jnp.sum(jnp.sin(3.0 * getattr(aux, name))) for name in probes[:-1])
        return jnp.sum(out * cotangent) + seen, (out, aux)

    def of(backend: str) -> Any:
        return jax.jit(jax.value_and_grad(lambda m: loss(backend, m), has_aux=True))(moving)

    return [of("reference"), of("chunked")]


@pytest.mark.parametrize(("name", "case"), [(name, i % len(CASES)) for i, name in enumerate(sorted(STREAMING))])
def test_every_streaming_variant(name: str, case: int) -> None:
    mask, bias, softcap = CASES[case]
    expected, found = both(STREAMING[name](), MASKS[mask](), BIASES[bias], softcap)
    jax.tree.map(lambda e, f: np.testing.assert_allclose(f, e, **CLOSE), expected, found)


@pytest.mark.parametrize(
    ("mask", "bias"), [(mask, sorted(BIASES)[i % len(BIASES)]) for i, mask in enumerate(sorted(MASKS))]
)
def test_every_mask_and_bias(mask: str, bias: str) -> None:
    expected, found = both(SinkLogit(), MASKS[mask](), BIASES[bias], None, offset=jnp.asarray([1, 3]))
    jax.tree.map(lambda e, f: np.testing.assert_allclose(f, e, **CLOSE), expected, found)


@pytest.mark.parametrize("sizes", [(1, 1), (100, 100), (2, 100)])
def test_every_size_of_block(sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "ROWS", sizes[0])
    monkeypatch.setattr(chunked, "COLUMNS", sizes[1])
    expected, found = both(Softmax(), Causal(), None, None)
    jax.tree.map(lambda e, f: np.testing.assert_allclose(f, e, **CLOSE), expected, found)


def test_vmap_is_a_loop() -> None:
    q, k, v = _normal(3, B, T, N, H), _normal(3, B, S, K, H), _normal(3, B, S, K, H)

    def one(q: Any, k: Any, v: Any) -> Any:
        return jax.grad(lambda q: jnp.sum(attend(q, k, v, mask=Causal(), backend="chunked") ** 2))(q)

    np.testing.assert_allclose(jax.vmap(one)(q, k, v), [one(*each) for each in zip(q, k, v, strict=True)], **CLOSE)


def test_probes_do_not_move_a_bit_of_the_output() -> None:
    q, k, v = (x.astype(jnp.float32) for x in (_normal(B, T, N, H), _normal(B, S, K, H), _normal(B, S, K, H)))
    for variant in (STREAMING[name]() for name in ("softmax", "sigmoid", "softpick")):
        params = variant.init(jax.random.key(0), AttentionDims(N, K, H))

        def run(want: tuple[str, ...], variant: RowMap = variant, params: Any = params) -> Any:
            keys = (0, 3) if "on_keys" in want else None
            return jax.jit(
                lambda q: attend_with_aux(
                    q, k, v, variant, params=params, mask=Causal(), backend="chunked", want=want, keys=keys
                )[0]
            )(q)

        np.testing.assert_array_equal(run(("row_mass", "received", "entropy", "on_keys")), run(()))


def test_bfloat16_keeps_float32_scores() -> None:
    q, k, v = (_normal(B, 40, N, 8).astype(jnp.bfloat16) for _ in range(3))
    exact = attend(*(x.astype(jnp.float64) for x in (q, k, v)), mask=Causal(), backend="reference")
    found = attend(q, k, v, mask=Causal(), backend="chunked")
    assert found.dtype == jnp.bfloat16
    # Only the output is rounded, to 8 significant bits.
    np.testing.assert_allclose(found.astype(jnp.float64), exact, rtol=2**-8 + 1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_scores(scale: float) -> None:
    q, k, v = _normal(B, T, N, H), _normal(B, S, K, H), _normal(B, S, K, HV)

    def of(backend: str) -> Any:
        def loss(q: jax.Array) -> jax.Array:
            return jnp.sum(attend(q, k, v, mask=Causal(), scale=scale, backend=backend) ** 2)

        return jax.value_and_grad(loss)(q)

    # Scores of 1e4 carry 1e-12 of rounding, which moves each weight by that much of itself, and the slope is 1e4.
    jax.tree.map(lambda e, f: np.testing.assert_allclose(f, e, rtol=1e-8, atol=1e-8), of("reference"), of("chunked"))


def test_what_it_cannot_do_is_said() -> None:
    q, k, v = _normal(B, T, N, H), _normal(B, S, K, H), _normal(B, S, K, H)
    with pytest.raises(ValueError, match=r"Sparsemax has no total, .* so that it needs whole rows; use auto or"):
        attend(q, k, v, CATALOGUE["sparsemax"](), backend="chunked")
    with pytest.raises(ValueError, match="it never has the whole array of weights"):
        attend_with_aux(q, k, v, backend="chunked", want=("weights",))
    with pytest.raises(ValueError, match="no score and weight arrays for a tap"):
        attend(q, k, v, backend="chunked", tap=lambda name, x: x)


def test_auto_takes_it_for_long_sequences_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "ROWS", 256)

    def lowered(length: int) -> str:
        like = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
        return str(jax.jit(lambda q: attend(q, q, q)).lower(like).as_text())

    # Blocks are read in a loop; the plain form has none, and the array of all scores instead.
    assert "512x512xf32" not in lowered(512)
    assert "stablehlo.while" in lowered(512)
    assert "511x511xf32" in lowered(511)
    assert "stablehlo.while" not in lowered(511)


def test_memory_is_linear_in_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "ROWS", 64)
    monkeypatch.setattr(chunked, "COLUMNS", 64)

    def temporary(length: int) -> int:
        like = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
        step = jax.jit(jax.grad(lambda q: jnp.sum(attend(q, q, q, mask=Causal(), backend="chunked"))))
        return int(step.lower(like).compile().memory_analysis().temp_size_in_bytes)

    # Twice the length is twice the memory, next to what a block takes.
    assert temporary(8192) < 2.2 * temporary(4096)
