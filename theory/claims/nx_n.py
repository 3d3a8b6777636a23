"""Claims NX-N1 to NX-N4: attention sinks are necessary for softmax (2603.11487)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from theory import necessity
from theory.calculations.necessity import ReluConstruction, SoftmaxConstruction, TriggerTraining
from theory.claim import TIERS, Arms, Claim, Control, Measure, Run

SOURCE = "2603.11487"
INF = math.inf
# A mean of at most 15 numbers of size 1 by two routes, each with up to 17 roundings of 2^-53: 3.8e-15.
ROUNDING = 4e-15
# Some tens of roundings, and an exp that is right to a few of them, relative to a number without cancellation.
RELATIVE = 1e-13


def _largest(x: np.ndarray) -> float:
    return float(np.abs(x).max())


def _answer(run: Run) -> np.ndarray:
    return necessity.answer(run.arrays["x"], run.arrays["trigger"])


# NX-N1 ----------------------------------------------------------------------------------------------------------
def _relu_error(a: Arms) -> float:
    run = a["necessity_relu"]
    return _largest(run.arrays["output"] - _answer(run))


def _relu_start(a: Arms) -> float:
    return float(a["necessity_relu"].arrays["start"])


def _relu_error_by_row(a: Arms) -> float:
    run = a["necessity_relu"]
    gain = necessity.row_divisor_gain(run.arrays["trigger"])[:, None, None]
    return _largest(run.arrays["output_by_row"] - gain * _answer(run))


N1 = Claim(
    id="NX-N1",
    source=SOURCE,
    statement="ReLU attention solves the trigger task exactly, with no weight on <s>.",
    kind="identity",
    evidence={
        "quick": {"necessity_relu": ReluConstruction(), "necessity_relu_as_softmax": ReluConstruction("softmax")},
        "paper": {
            "necessity_relu": ReluConstruction(sequences=512),
            "necessity_relu_as_softmax": ReluConstruction("softmax", sequences=512),
        },
    },
    measures=dict.fromkeys(
        TIERS,
        (
            Measure("largest error", _relu_error, "0 but for rounding", (-INF, ROUNDING)),
            Measure("largest weight on <s>", _relu_start, "0", (-INF, 0.0)),
            Measure(
                "largest error under the divisor j, from (j-1)/j of the answer",
                _relu_error_by_row,
                "0 but for rounding",
                (-INF, ROUNDING),
            ),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("softmax over the same logits", {"necessity_relu": "necessity_relu_as_softmax"}),
    note="The source divides by max(i, 1), i from 0; jaxsink.attention.ReLU by i + 1, which scales the answer.",
)


# NX-N2 ----------------------------------------------------------------------------------------------------------
def _constructed(a: Arms) -> tuple[Run, np.ndarray, np.ndarray]:
    """(run, logits, trigger) of the softmax construction."""
    run = a["necessity_softmax"]
    return run, run.arrays["logits"], run.arrays["trigger"]


def _softmax_error(a: Arms) -> float:
    run, logits, trigger = _constructed(a)
    length = run.arrays["x"].shape[1]
    found = np.abs(run.arrays["output"] - _answer(run)).max((2, 3))
    predicted = np.stack([necessity.largest_error(c, trigger, length) for c in logits])
    return _largest(found / predicted - 1)


def _dormant(trigger: np.ndarray, length: int) -> np.ndarray:
    """[N, L-1] whether rows 2..L are no trigger."""
    return np.arange(2, length + 1)[None] != trigger[:, None]


def _softmax_elsewhere(a: Arms) -> float:
    run, logits, trigger = _constructed(a)
    length = run.arrays["x"].shape[1]
    rows = np.arange(2, length + 1)
    deviation = [
        (found[:, 1:] / necessity.elsewhere(c, rows) - 1)[_dormant(trigger, length)]
        for c, found in zip(logits, run.arrays["elsewhere"], strict=True)
    ]
    return _largest(np.stack(deviation))


def _softmax_trigger(a: Arms) -> float:
    run, logits, trigger = _constructed(a)
    answer, each = _answer(run), np.arange(len(trigger))
    found = np.abs(run.arrays["output"] - answer)[:, each, trigger - 1].max(-1)
    largest = np.abs(answer[each, trigger - 1]).max(-1)
    return _largest(found - np.stack([necessity.trigger_error(c, trigger, largest) for c in logits]))


def _softmax_leak(a: Arms) -> float:
    run, logits, _ = _constructed(a)
    predicted = np.array([1 - necessity.elsewhere(c, np.array(2)) for c in logits])
    return _largest(run.arrays["leak"] / predicted - 1)


def _softmax_least_error(a: Arms) -> float:
    run = a["necessity_softmax"]
    return _largest(run.arrays["output"][-1] - _answer(run))


_CONSTRUCTED = {
    "quick": SoftmaxConstruction(),
    "paper": SoftmaxConstruction(logits=(3.0, 5.0, 10.0, 15.0, 20.0), sequences=256),
}
N2 = Claim(
    id="NX-N2",
    source=SOURCE,
    statement=(
        "Softmax with a logit c on <s>, -c at the trigger, solves the trigger task to an error (L-2)/(e^c + L - 1) "
        "with a sink of e^c/(e^c + L - 1), if the value map kills the flag of <s>."
    ),
    kind="identity",
    evidence={
        "quick": {"necessity_softmax": _CONSTRUCTED["quick"], "necessity_unseen": SoftmaxConstruction(seen=0.0)},
        "paper": {
            "necessity_softmax": _CONSTRUCTED["paper"],
            "necessity_unseen": SoftmaxConstruction(logits=(3.0, 5.0, 10.0, 15.0, 20.0), seen=0.0, sequences=256),
        },
    },
    measures=dict.fromkeys(
        TIERS,
        (
            Measure("relative deviation of the largest error", _softmax_error, "0", (-INF, RELATIVE)),
            Measure("relative deviation of the weight off <s>", _softmax_elsewhere, "0", (-INF, RELATIVE)),
            Measure("deviation of the error at the trigger", _softmax_trigger, "0", (-INF, ROUNDING)),
            Measure(
                "relative deviation of the leak when the flag of <s> stays",
                _softmax_leak,
                "the sink of row 2",
                (-INF, RELATIVE),
            ),
            Measure("largest error at c = 20", _softmax_least_error, "2.9e-8", (-INF, 1e-7)),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("keys that do not show <s>: its logit is 0", {"necessity_softmax": "necessity_unseen"}),
)


# NX-N3 ----------------------------------------------------------------------------------------------------------
# A share of the loss of answering zero at which value = lambda 1 holds to about its square root, 3 %.
SMALL = 1e-3


def _identity(a: Arms) -> float:
    run = a["necessity_trained_softmax"]
    off = 1 - run.arrays["start_weight"]
    predicted = [
        necessity.elsewhere_from_output(value, output)
        for value, output in zip(run.arrays["value"], run.arrays["output"], strict=True)
    ]
    return _largest(off - np.stack(predicted))


def _off_by_level(run: Run) -> np.ndarray:
    """[K] the weight off `<s>` of the row in which its mean is largest."""
    return 1 - run.arrays["start_by_row"].min(-1)


def _least_share(run: Run) -> float:
    """The smallest share of sequences in which a row is no trigger."""
    return float(_dormant(run.arrays["trigger"], int(run.arrays["length"])).mean(0).min())


def _against_any(a: Arms) -> float:
    run = a["necessity_trained_softmax"]
    norms = [float(np.linalg.norm(necessity.readout(value))) for value in run.arrays["value"]]
    bound = [
        necessity.most_elsewhere(loss, int(run.arrays["length"]), _least_share(run), norm)
        for loss, norm in zip(run.arrays["loss"], norms, strict=True)
    ]
    return float((_off_by_level(run) / np.array(bound)).max())


def _against_loss(a: Arms) -> float:
    run = a["necessity_trained_softmax"]
    small = run.arrays["loss"] < SMALL * run.arrays["zero_loss"]
    if not small.any():
        return math.nan
    bound = necessity.most_elsewhere(run.arrays["loss"], int(run.arrays["length"]), _least_share(run))
    return float((_off_by_level(run) / bound)[small].max())


def _last_sink(a: Arms) -> float:
    return float(1 - _off_by_level(a["necessity_trained_softmax"])[-1])


def _exponent(a: Arms) -> float:
    run, logits, trigger = _constructed(a)
    dormant = _dormant(trigger, run.arrays["x"].shape[1])
    off = np.array([found[:, 1:][dormant].mean() for found in run.arrays["elsewhere"]])
    ends = [int(np.flatnonzero(logits == c)[0]) for c in (10.0, 20.0)]
    return float(np.diff(np.log(off[ends]))[0] / np.diff(np.log(run.arrays["loss"][ends]))[0])


_LONG = TriggerTraining(levels=20, steps=500, batch=256, held_out=2048)
TRAINED = {
    "quick": {
        "necessity_trained_softmax": TriggerTraining(),
        "necessity_trained_relu": TriggerTraining("relu"),
    },
    "paper": {
        "necessity_trained_softmax": _LONG,
        "necessity_trained_relu": replace(_LONG, attention="relu"),
    },
}

N3 = Claim(
    id="NX-N3",
    source=SOURCE,
    statement=(
        "As the loss of a softmax solution goes to 0, its weight on <s> in every non-trigger row goes to 1: what is "
        "left is at most sqrt(2 L loss (1 + 1/p)), p the share of sequences in which a row is no trigger."
    ),
    kind="theory",
    evidence={tier: {**TRAINED[tier], "necessity_softmax": _CONSTRUCTED[tier]} for tier in TIERS},
    measures=dict.fromkeys(
        TIERS,
        (
            # The value map's condition, below 1e4 from the first level on, times some tens of roundings.
            Measure("deviation of the weight off <s> from that read off the output", _identity, "0", (-INF, 1e-10)),
            Measure(
                "worst row's weight off <s> over the bound, largest of all levels",
                _against_any,
                "<= 1",
                (0.0, 1.0),
                "log",
            ),
            Measure(
                "the same over the bound by the loss alone, where it is small",
                _against_loss,
                "<= 1",
                (0.0, 1.0),
                "log",
            ),
            # A loss of 1e-6, some 1e-5 of that of the answer 0, leaves .008 by the bound.
            Measure("worst row's weight on <s> at the last level", _last_sink, "> .99", (0.99, INF)),
            # Both fall exponentially in c; what is left out is 15 e^-10 over a range of 10.
            Measure("exponent of the weight off <s> in the loss, constructed", _exponent, "1/2", (0.499, 0.501)),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control(
        "ReLU attention, whose loss falls further without a sink",
        {"necessity_trained_softmax": "necessity_trained_relu"},
    ),
    note="That small loss forces |w| <= sqrt(2) is proved at zero loss and tested above it.",
)


# NX-N4 ----------------------------------------------------------------------------------------------------------
def _sink(attention: str) -> Measure:
    def extract(a: Arms) -> float:
        return float(a[f"necessity_trained_{attention}"].arrays["start"][-1])

    predicted, tolerance = ("> .9", (0.9, INF)) if attention == "softmax" else ("< .1", (-INF, 0.1))
    return Measure(f"mean weight on <s> in non-trigger rows, {attention}", extract, predicted, tolerance)


def _predicted_zero_loss(run: Run) -> float:
    return necessity.zero_loss(int(run.arrays["length"]), int(run.arrays["width"]))


def _solved(attention: str) -> Measure:
    def extract(a: Arms) -> float:
        run = a[f"necessity_trained_{attention}"]
        return float(run.arrays["loss"][-1] / _predicted_zero_loss(run))

    return Measure(f"loss over that of the answer 0, {attention}", extract, "< .01", (-INF, 0.01))


def _zero_loss_ratio(a: Arms) -> float:
    run = a["necessity_trained_softmax"]
    return float(run.arrays["zero_loss"] / _predicted_zero_loss(run))


N4 = Claim(
    id="NX-N4",
    source=SOURCE,
    statement="Trained on the trigger task softmax attention forms the sink, ReLU attention does not; both solve it.",
    kind="training",
    evidence={
        "quick": {**TRAINED["quick"], "necessity_trained_every": TriggerTraining(every=True)},
        "paper": {**TRAINED["paper"], "necessity_trained_every": replace(_LONG, every=True)},
    },
    measures=dict.fromkeys(
        TIERS,
        (
            _sink("softmax"),
            _solved("softmax"),
            # Uniform attention would give .16, the mean of 1/i over rows 2..16.
            _sink("relu"),
            _solved("relu"),
            # The squared norm varies by .34 of its mean from sequence to sequence: .015 over 512, .04 for the interval.
            Measure("loss of the answer 0, measured over predicted", _zero_loss_ratio, "1", (0.9, 1.1)),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control(
        "the running mean asked for in every row, so that no default is needed",
        {"necessity_trained_softmax": "necessity_trained_every"},
    ),
)

CLAIMS = (N1, N2, N3, N4)
