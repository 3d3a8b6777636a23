"""Claims RP4-RP6 and RP8: what makes residual-state peaks, and what their removal costs (2410.13835, section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from jaxsink.training import TrainConfig
from theory.claim import TIERS, Arms, Claim, Control, Measure, Run
from theory.claims import arms
from theory.claims.readings import after_fast_phase, curve, final, total_risk

SOURCE = "2410.13835, section 3"
INF = math.inf
Array = NDArray[np.float64]
Measures = tuple[Measure, ...]


def _array(run: Run, name: str) -> Array:
    return np.asarray(run.arrays[name], np.float64)


def sink_block(run: Run) -> int:
    """The block after block 0 that attends most to <s> at the end: the upper layer that can use a peak."""
    return 1 + int(np.argmax(_array(run, "attn_start")[-1, 1:]))


# RP4 ------------------------------------------------------------------------------------------------------------
def _parts(without_attention: tuple[int, ...] = (), without_mlp: tuple[int, ...] = (), blocks: int = 3) -> TrainConfig:
    """The run of three blocks with parts left out. A block is attention and MLP; either alone is a block without."""
    base = arms.DEEP_ADAM["paper"]
    shape = replace(base.model, n_layers=blocks)
    return replace(
        base, model=replace(shape, layers_without_attention=without_attention, layers_without_mlp=without_mlp)
    )


_STRUCTURES = {
    "deep_adam": arms.DEEP_ADAM["paper"],
    "two_blocks_mlp": _parts((2,)),
    "two_blocks": _parts(blocks=2),
    "mlp_block_mlp": _parts((0, 2)),
    "attention_block_mlp": _parts((2,), (0,)),
}


def _structure(token: str) -> Measures:
    def peak(run: Run) -> float:
        """Largest ratio of a block, at the end, of the norm at the token to that at other positions."""
        return float((_array(run, f"resid_norm_{token}") / _array(run, "resid_norm_other"))[-1].max())

    def growth(run: Run) -> float:
        norms = _array(run, f"resid_norm_{token}")
        return float((norms[-1] / norms[0]).max())

    def over(of: Callable[[Run], float], upper: tuple[str, ...], lower: tuple[str, ...]) -> Callable[[Arms], float]:
        return lambda a: min(of(a[arm]) for arm in upper) / max(of(a[arm]) for arm in lower)

    large, small, none = ("deep_adam", "two_blocks_mlp"), ("two_blocks", "mlp_block_mlp"), ("attention_block_mlp",)
    where = "<s>" if token == "start" else "the most frequent character"
    return tuple(
        Measure(f"{words} at {where}, {pair}", over(of, upper, lower), f"> {bound:g}", (bound, INF), "log")
        for words, of in (("peak ratio", peak), ("growth of the norm", growth))
        for pair, upper, lower, bound in (
            ("least of {3 blocks, 2 blocks + MLP} over most of {2 blocks, MLP + block + MLP}", large, small, 2.0),
            ("least of {2 blocks, MLP + block + MLP} over attention + block + MLP", small, none, 1.0),
        )
    )


RP4 = Claim(
    id="RP4",
    source=SOURCE,
    statement="A large peak takes three blocks, or two and an MLP; the less structure, the smaller it is.",
    kind="training",
    evidence={"paper": _STRUCTURES},
    measures={"paper": _structure("start")},
    expected={"paper": "refuted"},
    control=Control(
        "the most frequent character in place of <s>: norms in general do not follow that order",
        measures={"paper": _structure("content")},
    ),
    figure="residual_norms",
    note="Of the blocks of a structure the one with the largest peak counts, and the one with the largest growth. In "
    "bfloat16 peaks end at 1.5 to 2.2 times the other norms with three blocks, 1.5 to 1.7 with two and an MLP, 1.4 to "
    "1.9 with MLP, block and MLP, 1.1 to 1.4 with two blocks and 1.0 to 1.1 with attention, block and MLP.",
)


# RP5 ------------------------------------------------------------------------------------------------------------
def _removed(one: tuple[float, float], dlogit: float, value: float, block: int = 0) -> Measures:
    """What must follow from the removal of a block. `one`: the peak ratios that are about 1."""

    def peak(a: Arms) -> float:
        return float(_array(a["deep_adam"], "removed_peak_ratio")[block].max())

    def over_before(a: Arms, name: str) -> float:
        run = a["deep_adam"]
        reader = sink_block(run)
        return float(_array(run, f"removed_{name}")[block, reader]) / final(run, name, reader)

    what = "block 0" if block == 0 else "the last block"
    return (
        Measure(f"largest peak ratio without {what}", peak, f"about 1: {one[0]:g} to {one[1]:g}", one, "log"),
        Measure(
            f"Dlogit of the upper block with most sink, without {what} over with it",
            lambda a: over_before(a, "dlogit"),
            f"< {dlogit:g}",
            (-INF, dlogit),
        ),
        Measure(
            f"Val ratio of <s> in that block, without {what} over with it",
            lambda a: over_before(a, "value_ratio"),
            f"> {value:g}",
            (value, INF),
            "log",
        ),
    )


_QUICK_REMOVED, _PAPER_REMOVED = ((0.5, 2.0), 0.2, 2.0), ((0.67, 1.5), 0.2, 5.0)

RP5 = Claim(
    id="RP5",
    source=SOURCE,
    statement="Block 0 makes the peak, and the upper blocks use it for their sink and their drained value.",
    kind="training",
    evidence=arms.by_tier(deep_adam=arms.DEEP_ADAM),
    measures={"quick": _removed(*_QUICK_REMOVED), "paper": _removed(*_PAPER_REMOVED)},
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control(
        "the last block removed instead",
        measures={"quick": _removed(*_QUICK_REMOVED, block=-1), "paper": _removed(*_PAPER_REMOVED, block=-1)},
    ),
    figure="block_removal",
    note="The block is removed from the trained network; nothing is trained again. The upper block with most sink is "
    "the one after block 0 that attends most to <s>.",
)


# RP6 ------------------------------------------------------------------------------------------------------------
def _mean_cosine(vectors: Array) -> float:
    """Mean cosine over all pairs of rows."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float((unit @ unit.T)[np.triu_indices(len(unit), 1)].mean())


def _null_space(name: str, bound: float, when: Callable[[Run], NDArray[np.bool_]]) -> Callable[[str], Measure]:
    def of(token: str) -> Measure:
        def image(a: Arms) -> float:
            run = a["deep_adam"]
            return float(curve(run, f"{name}_{token}_image", sink_block(run))[when(run)].mean())

        words = f"length of the {name}'s image under the value map of the upper block with most sink, over that of a "
        return Measure(words + "random direction", image, f"< {bound:g}", (-INF, bound), "log")

    return of


def _at_end(run: Run) -> NDArray[np.bool_]:
    steps = curve(run, "step")
    return np.asarray(steps == steps[-1])


def _gradient(token: str) -> Measures:
    def cosine(a: Arms) -> float:
        run = a["deep_adam"]
        return _mean_cosine(_array(run, f"gradient_{token}")[after_fast_phase(run)])

    return (
        Measure("mean cosine of the gradients at two log points of the slow phase", cosine, "> 0.9", (0.9, INF)),
        _null_space("gradient", 0.5, after_fast_phase)(token),
    )


WINDOWS = 4


def growth_windows(run: Run, token: str) -> Array:
    """[WINDOWS, D]: by how much the residual state moved in each quarter of the slow phase."""
    slow = after_fast_phase(run)
    steps, states = curve(run, "step")[slow], _array(run, f"residual_{token}")[slow]
    ends = np.linspace(steps[0], steps[-1], WINDOWS + 1)
    nearest = np.abs(steps[:, None] - ends[None, :]).argmin(axis=0)
    return np.asarray(np.diff(states[nearest], axis=0))


def _direction(bound: float, token: str) -> Measures:
    def cosine(a: Arms) -> float:
        return _mean_cosine(growth_windows(a["deep_adam"], token))

    words = "mean cosine of what two quarters of the slow phase add to the residual state"
    return (
        Measure(words, cosine, f"> {bound:g}", (bound, INF)),
        _null_space("residual", 0.5, _at_end)(token),
    )


_CONTENT = "the most frequent character in place of <s>"
_IMAGE = (
    "The value map is W_V W_O after LayerNorm's gain and centring; a random direction has 1 and the null space 0. "
    "The slow phase starts when the Backcopy risk has fallen to a tenth."
)

RP6 = Claim(
    id="RP6",
    source=SOURCE,
    statement="The gradients at the residual state of <s> keep one direction, in the null space of upper value maps.",
    kind="training",
    evidence=arms.by_tier(deep_adam=arms.DEEP_ADAM),
    measures=dict.fromkeys(TIERS, _gradient("start")),
    expected={"quick": "refuted", "paper": "supported"},
    control=Control(_CONTENT, measures=dict.fromkeys(TIERS, _gradient("content"))),
    figure="residual_gradients",
    note="Gradients are those of the expected loss on one probe batch, after block 0. " + _IMAGE,
)

RP6B = Claim(
    id="RP6b",
    source=SOURCE + ", as a consequence of its statement on gradients",
    statement="The residual state of <s> grows in one direction, in the null space of upper value maps.",
    kind="training",
    evidence=arms.by_tier(deep_adam=arms.DEEP_ADAM),
    measures={"quick": _direction(0.5, "start"), "paper": _direction(0.9, "start")},
    expected={"quick": "inconclusive", "paper": "supported"},
    control=Control(_CONTENT, measures={"quick": _direction(0.5, "content"), "paper": _direction(0.9, "content")}),
    figure="residual_gradients",
    note=_IMAGE,
)


# RP8 ------------------------------------------------------------------------------------------------------------
def _cost(bound: float, *, attention: bool = True) -> Measures:
    def measure(arm: str, words: str) -> Measure:
        def relative(a: Arms) -> float:
            """Total excess risk at the end of the run over that of Adam with softmax at the same step."""
            run = a[arm]
            parts = ("backcopy", "bigram")
            if attention:
                risk = sum(final(run, part) for part in parts)
            else:
                risk = sum(float(run.arrays[f"no_attention_{part}"]) for part in parts)
            step = float(curve(run, "step")[-1])
            return risk / total_risk(a["deep_adam"], step)

        cut = "" if attention else ", attention cut"
        return Measure(
            f"total excess risk, {words}{cut} over Adam with softmax", relative, f"< {bound:g}", (-INF, bound), "log"
        )

    return measure("deep_relu", "ReLU"), measure("deep_sgd", "SGD")


RP8 = Claim(
    id="RP8",
    source=SOURCE,
    statement="Removing peaks by ReLU attention or by SGD costs no performance on the task.",
    kind="training",
    evidence=arms.by_tier(deep_relu=arms.DEEP_RELU, deep_sgd=arms.DEEP_SGD, deep_adam=arms.DEEP_ADAM),
    measures=dict.fromkeys(TIERS, _cost(1.25)),
    expected={"quick": "inconclusive", "paper": "refuted"},
    control=Control(
        "the attention of the two networks cut", measures=dict.fromkeys(TIERS, _cost(1.25, attention=False))
    ),
    figure="dynamics",
    note="Compared at equal steps, which are those of the shorter run. Total: Backcopy and Bigram.",
)

CLAIMS = (RP4, RP5, RP6, RP6B, RP8)
