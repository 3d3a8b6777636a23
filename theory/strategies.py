"""Hypothesis strategies for what this library computes on: chains, restricted models, attention inputs, tokens.

Arrays are drawn with numpy from a seed that Hypothesis chooses; sizes come from short lists, because JAX compiles
for each new shape. What decides whether a case is interesting (sparse, empty, grouped, extreme) is a choice of
Hypothesis itself, so that a failing example shrinks to the plainest of its kind.

>>> from hypothesis import given
>>> from theory import strategies
>>> @given(strategies.chains())
... def test_rows_sum_to_one(chain):
...     assert abs(chain.transition.sum(1) - 1).max() < 1e-12
>>> test_rows_sum_to_one()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from jaxsink.attention import Causal, IsolateRows, Lengths, Mask, Segments, Window, WindowWithSinks
from jaxsink.tasks import BigramBackcopy, BigramChain, dirichlet
from theory.restricted import RestrictedModel, restricted_model

Floats = NDArray[np.float64]

_SEEDS = st.integers(0, 2**32 - 1)
# (n, V, C) of the restricted models: the least, and several of everything.
_RESTRICTED = ((1, 3, 1), (3, 4, 2))
# (B, T, S, N, K, H): a square with a key head for each query head, grouped heads, and decoding with one key head.
_ATTENTION = ((1, 4, 4, 2, 2, 3), (2, 4, 4, 4, 2, 3), (1, 3, 6, 2, 1, 4))
_MASKS = (
    "none",
    "dense",
    "causal",
    "window",
    "window-with-sinks",
    "lengths",
    "segments",
    "isolated",
    "causal-and-lengths",
)
_LOGITS = (1.0, 10.0, 1e3, 1e4)


def _kept(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.bool_]:
    """bool[rows, columns]: what stays in a sparse table; an entry of each row does, and one of the table does not."""
    kept = rng.random((rows, columns)) < 0.5
    kept[0, 0] = False
    kept[np.arange(rows), rng.integers(1, columns, rows)] = True
    return kept


@st.composite
def chains(draw: st.DrawFn, *, min_size: int = 2, max_size: int = 6, sparse: bool | None = None) -> BigramChain:
    """Bigram chains of few characters.

    Drawn as counts of a text (integers), as a transition matrix with all characters equally frequent, or, where no
    zero is asked for, by `tasks.dirichlet` with its stationary marginal.

    Args:
        min_size: least number of characters V, 2 or more.
        max_size: largest V.
        sparse: whether some transitions are impossible (each character keeps a successor, and may keep just one; a
            sparse chain need not reach every character); None for either.

    Returns:
        Chains with labels "0", "1", ...
    """
    size = draw(st.integers(min_size, max_size))
    holes = draw(st.booleans()) if sparse is None else sparse
    seed = draw(_SEEDS)
    kind = draw(st.sampled_from(("counts", "rows") if holes else ("counts", "rows", "dirichlet")))
    if kind == "dirichlet":
        # Below 1 a row may come so near to zero that the stationary law loses its sign.
        return dirichlet(size, draw(st.sampled_from((1.0, 5.0, 20.0))), seed)
    rng = np.random.default_rng(seed)
    table: NDArray[Any]
    table = rng.integers(1, 10, (size, size)) if kind == "counts" else rng.dirichlet(np.ones(size), size)
    if holes:
        table = table * _kept(rng, size, size)
    if kind == "rows":
        table = table / table.sum(1, keepdims=True)
    return BigramChain(tuple(map(str, range(size))), table)


@dataclass(frozen=True)
class RestrictedCase:
    """What `theory.restricted.restricted_model` is built from, in float64, and a point to evaluate it at.

    Attributes:
        p: [n, V] bigram rows.
        pi: [n] weights of the queries, from 0.1 to 1.
        counts: [C, V] how often each token stands among the keys, from 0 to 4.
        values: [V] scales of the value states, from 0 to 2.
        alpha: [n] sink logits, normal of standard deviation two.
        beta: [V] value state of `<s>`, normal of standard deviation one.
    """

    p: Floats
    pi: Floats
    counts: NDArray[np.int64]
    values: Floats
    alpha: Floats
    beta: Floats

    def model(self) -> RestrictedModel:
        """The model in JAX's present precision: call it under `jax.enable_x64(True)` for float64."""
        return restricted_model(self.p, self.pi, self.counts, self.values)


@st.composite
def restricted_models(draw: st.DrawFn, *, contexts: int | None = None, sparse: bool | None = None) -> RestrictedCase:
    """Restricted models of 2410.13835 with sink logits and a value state.

    One query over three tokens and in one context, or three queries over four tokens in two contexts.

    Args:
        contexts: number of contexts C in both cases instead.
        sparse: whether rows of p have zeros (each keeps an entry, and may keep just one); None for either.

    Returns:
        Cases; `case.model()` is the model, `case.alpha` and `case.beta` the point.
    """
    n, size, number = draw(st.sampled_from(_RESTRICTED))
    number = number if contexts is None else contexts
    holes = draw(st.booleans()) if sparse is None else sparse
    rng = np.random.default_rng(draw(_SEEDS))
    p = rng.dirichlet(np.ones(size), n)
    if holes:
        p = p * _kept(rng, n, size)
        p = p / p.sum(1, keepdims=True)
    return RestrictedCase(
        p=p,
        pi=rng.uniform(0.1, 1.0, n),
        # The first token stands among the keys of every context.
        counts=rng.integers(0, 4, (number, size)) + np.eye(1, size, dtype=np.int64),
        values=rng.uniform(0.0, 2.0, size),
        alpha=rng.normal(0.0, 2.0, n),
        beta=rng.normal(0.0, 1.0, size),
    )


@dataclass(frozen=True)
class AttentionInputs:
    """Arguments of one call of `jaxsink.attention.attend`, float32.

    Attributes:
        q: queries [B, T, N, H].
        k: keys [B, S, K, H].
        v: values [B, S, K, H].
        mask: structured, bool [B, 1, T, S], or None.
        kind: what mask it is, in a word.
        largest: the largest |q.k| / sqrt(H) among all pairs, hidden ones included.
    """

    q: NDArray[np.float32]
    k: NDArray[np.float32]
    v: NDArray[np.float32]
    mask: Mask | NDArray[np.bool_] | None
    kind: str
    largest: float

    @property
    def arguments(self) -> dict[str, Any]:
        """q, k, v and mask by name; `attend(**inputs.arguments, variant=...)`."""
        return {"q": self.q, "k": self.k, "v": self.v, "mask": self.mask}

    @property
    def grouped(self) -> bool:
        """Whether query heads share key heads."""
        return self.q.shape[2] > self.k.shape[2]

    @property
    def visible(self) -> NDArray[np.bool_]:
        """The mask written out, bool [B, 1, T, S]."""
        full = (self.q.shape[0], 1, self.q.shape[1], self.k.shape[1])
        if self.mask is None:
            return np.ones(full, np.bool_)
        dense = self.mask.materialise(full[2], full[3]) if isinstance(self.mask, Mask) else self.mask
        return np.broadcast_to(np.asarray(dense), full)

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Queries that see no key, bool [B, T]."""
        return np.logical_not(np.any(self.visible[:, 0], axis=-1))


def _mask(kind: str, rng: np.random.Generator, batch: int, queries: int, keys: int) -> Mask | NDArray[np.bool_] | None:
    def lengths() -> Mask:
        return Lengths(rng.integers(0, keys + 1, batch).astype(np.int32))

    def dense() -> NDArray[np.bool_]:
        # One query in five sees nothing.
        return (rng.random((batch, 1, queries, keys)) < 0.6) & (rng.random((batch, 1, queries, 1)) < 0.8)

    def segments() -> Mask:
        # A segment of the queries may be missing among the keys.
        q_ids, k_ids = rng.integers(0, 3, (batch, queries)), rng.integers(0, 3, (batch, keys))
        return Segments(q_ids.astype(np.int32), k_ids.astype(np.int32))

    makers: dict[str, Callable[[], Mask | NDArray[np.bool_] | None]] = {
        "none": lambda: None,
        "dense": dense,
        "causal": Causal,
        "window": lambda: Window(int(rng.integers(1, 4))),
        "window-with-sinks": lambda: Causal() & WindowWithSinks(int(rng.integers(1, 3)), int(rng.integers(0, 3))),
        "lengths": lengths,
        "segments": segments,
        "isolated": lambda: Causal() & IsolateRows(rng.integers(0, keys, 2).astype(np.int32)),
        "causal-and-lengths": lambda: Causal() & lengths(),
    }
    return makers[kind]()


@st.composite
def attention_inputs(
    draw: st.DrawFn, *, masks: Sequence[str] = _MASKS, logits: Sequence[float] = _LOGITS
) -> AttentionInputs:
    """Queries, keys and values with a mask, for any row map; parameters come from the row map's own `init`.

    (B, T, S, N, K, H) is (1, 4, 4, 2, 2, 3), (2, 4, 4, 4, 2, 3) with grouped heads, or (1, 3, 6, 2, 1, 4) as in
    decoding. Under "dense", "lengths", "segments" and "causal-and-lengths" some queries may see no key.

    Args:
        masks: kinds to choose from: "none", "dense" (boolean), "causal", "window", "window-with-sinks" (causal),
            "lengths", "segments", "isolated" (causal, two rows that see only themselves), "causal-and-lengths".
        logits: sizes of the largest |q.k| / sqrt(H) to choose from.

    Returns:
        Inputs; k and v are normal of standard deviation one.

    Raises:
        ValueError: a kind of mask is unknown.
    """
    unknown = sorted(set(masks) - set(_MASKS))
    if unknown:
        raise ValueError(f"masks must be among {', '.join(_MASKS)}, but has {', '.join(unknown)}; choose from those")
    batch, queries, keys, heads, key_heads, size = draw(st.sampled_from(_ATTENTION))
    kind = draw(st.sampled_from(masks))
    largest = draw(st.sampled_from(logits))
    rng = np.random.default_rng(draw(_SEEDS))
    q = rng.normal(size=(batch, queries, heads, size))
    k, v = rng.normal(size=(2, batch, keys, key_heads, size)).astype(np.float32)
    scores = np.einsum("btnh,bsnh->bnts", q, np.repeat(k, heads // key_heads, 2)) / np.sqrt(size)
    q = (q * (largest / np.abs(scores).max())).astype(np.float32)
    return AttentionInputs(q, k, v, _mask(kind, rng, batch, queries, keys), kind, largest)


@st.composite
def tokens(
    draw: st.DrawFn, vocab_size: int, *, batch: int = 2, length: int = 8, start: bool = True
) -> NDArray[np.int32]:
    """Any token sequences of a vocabulary whose last token is the start token `<s>`.

    Args:
        vocab_size: number of tokens, `<s>` included.
        batch: B.
        length: T.
        start: whether each sequence opens with `<s>`; it never stands anywhere else.

    Returns:
        int32[B, T] arrays, drawn element by element.
    """
    characters = st.integers(0, vocab_size - 2)
    drawn = np.array(draw(arrays(np.int32, (batch, length), elements=characters)))
    if start:
        drawn[:, 0] = vocab_size - 1
    return drawn


def _following(task: BigramBackcopy, previous: int, current: int) -> NDArray[np.bool_]:
    """bool[V]: the characters that may come after two tokens, the second of which is a character."""
    possible = task.chain.transition > 0
    if current not in task.triggers or previous == task.start_id or task.copy_probability == 0.0:
        return possible[current]
    copied = np.arange(task.chain.size) == previous if task.rule == "backcopy" else possible[previous]
    return copied if task.copy_probability == 1.0 else copied | possible[current]


@st.composite
def backcopy_tokens(draw: st.DrawFn, task: BigramBackcopy, *, batch: int = 2, length: int = 8) -> NDArray[np.int32]:
    """Sequences that a Bigram-Backcopy task can emit, rare ones as often as common ones.

    Each next token is drawn evenly from those that the law of the task allows, so that what has a small probability
    in the task, or needs a rare trigger, still occurs.

    Args:
        task: the task; keep it the same in a test, because each task is compiled anew.
        batch: B.
        length: T, at least the number of the task's start tokens.

    Returns:
        int32[B, T] arrays that open with the task's start tokens.
    """
    rng = np.random.default_rng(draw(_SEEDS))
    first = task.chain.marginal > 0
    first[list(task.triggers)] = False
    drawn = np.full((batch, length), task.start_id, np.int32)
    for row in drawn:
        previous = current = task.start_id
        for t in range(task.starts, length):
            allowed = first if current == task.start_id else _following(task, previous, current)
            row[t] = rng.choice(np.flatnonzero(allowed))
            previous, current = current, int(row[t])
    return drawn
