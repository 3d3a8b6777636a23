"""Claims NX-I5, NX-I7 and NX-I9 to NX-I11: bounds, each with instances that attain it, and Jacobians of gates."""

from __future__ import annotations

from typing import Any

import numpy as np

from theory import bounds
from theory.calculations.bounds import LargestWeight, NormJacobian, PathJacobian, Spectrum, ValueGate
from theory.claim import TIERS, Arms, Claim, Control, Measure
from theory.claims.exactness import EXACT, INF, attained, equal, evidence, unequal, within

Array = np.ndarray


# NX-I5 ----------------------------------------------------------------------------------------------------------
def _weight_ratios(a: Arms) -> Array:
    """[c, B, T - 1], rows with two keys or more: with one the bound is 1 whatever the cap."""
    run = a["capped_scores"].arrays
    keys = np.arange(2, run["largest"].shape[2] + 1)
    return run["largest"][:, :, 1:] / np.stack([bounds.largest_weight(keys, float(c)) for c in run["caps"]])[:, None]


I5 = Claim(
    id="NX-I5",
    source="elementary",
    statement="Scores within [-c, c] bound every softmax weight by 1/(1 + (n - 1) e^{-2c}), n the visible keys.",
    kind="identity",
    evidence=evidence(capped_scores=LargestWeight(), uncapped_scores=LargestWeight(capped=False)),
    measures=dict.fromkeys(
        TIERS,
        (
            within("largest weight", _weight_ratios),
            attained("largest weight by c and n", lambda a: _weight_ratios(a).max(1)),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("the same scores without the soft-cap", {"capped_scores": "uncapped_scores"}),
)


# NX-I7 ----------------------------------------------------------------------------------------------------------
def _norm_ratios(a: Arms) -> Array:
    run = a["rms_norm"].arrays
    return run["jacobian"] / bounds.rms_norm_jacobian(run["x"], run["gain"], float(run["eps"]))


I7 = Claim(
    id="NX-I7",
    source="elementary",
    statement="The Jacobian of RMSNorm at x has norm at most max |g| / sqrt(|x|^2/d + eps).",
    kind="identity",
    evidence=evidence(rms_norm=NormJacobian(), rms_norm_at_half=NormJacobian(at=0.5)),
    measures=dict.fromkeys(
        TIERS,
        (
            within("norm of the Jacobian", _norm_ratios),
            attained("norm of the Jacobian by size of x", lambda a: _norm_ratios(a).max(1)),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("the Jacobian at x / 2, where it is larger", {"rms_norm": "rms_norm_at_half"}),
)


# NX-I9 ----------------------------------------------------------------------------------------------------------
def _rows(a: Arms) -> tuple[Any, Array, Array]:
    """Arrays of the run, and the rows x_0 [B, c, D] and the others [B, 1, T - 1, D]."""
    run = a["growing_first_row"].arrays
    return run, run["first"], run["rest"][:, None]


def _leading_ratios(a: Arms, alpha: float | None = None) -> Array:
    run, first, rest = _rows(a)
    found = bounds.alignment(first, rest) if alpha is None else np.full(first.shape[:2], alpha)
    return bounds.leading_singular_value(first, rest, found) / run["leading"]


def _entropy_bounds(a: Arms) -> Array:
    run, first, rest = _rows(a)
    return bounds.matrix_entropy(run["ratios"][None], bounds.alignment(first, rest), run["rank"])


def _entropy_ratios(a: Arms) -> Array:
    return a["growing_first_row"].arrays["entropy"] / _entropy_bounds(a)


def _mirrored_leading_ratios(a: Arms) -> Array:
    """[mirrored, c] where the first row is sure to lead: each of three pairs adds at most R/3 in its own direction."""
    run, *_ = _rows(a)
    return _leading_ratios(a)[run["mirrors"]][:, run["ratios"] >= 0.5]


def _mirrored_entropy_ratios(a: Arms) -> Array:
    run, *_ = _rows(a)
    return _entropy_ratios(a)[run["mirrors"]]


def _steps(a: Arms, values: Array, low: float, high: float = INF) -> Array:
    """Quotients of the values at one M/R and at the one before, for those within the limits."""
    ratios = a["growing_first_row"].arrays["ratios"]
    kept = values[:, (ratios >= low) & (ratios <= high)]
    return kept[:, 1:] / kept[:, :-1]


def _entropy_steps(a: Arms, low: float, high: float = INF) -> float:
    return float(_steps(a, a["growing_first_row"].arrays["entropy"], low, high).max())


I9 = Claim(
    id="NX-I9",
    source="2510.06477, theorem 1 and corollaries",
    statement="A first row of squared norm M lifts the largest squared singular value to M + alpha R at least, and the "
    "upper bound that this sets on the entropy falls as M/R grows; the entropy itself may rise where M < R.",
    kind="identity",
    evidence=evidence(growing_first_row=Spectrum()),
    measures=dict.fromkeys(
        TIERS,
        (
            within("M + alpha R over the largest squared singular value", _leading_ratios),
            attained("M + alpha R, mirrored rows with M >= R/2", _mirrored_leading_ratios),
            within("entropy", _entropy_ratios),
            attained("entropy, mirrored rows", _mirrored_entropy_ratios),
            # From M/R = 1/2 on, where p > 1/r for every rank here.
            Measure(
                "largest quotient of the bound on the entropy at successive M/R",
                lambda a: float(_steps(a, _entropy_bounds(a), 0.5).max()),
                "< 1",
                (-INF, 1.0),
                "log",
            ),
            Measure(
                "the same of the entropy itself for M <= R",
                lambda a: _entropy_steps(a, 0.0, 1.0),
                "> 1: it may rise",
                (1.01, INF),
                "log",
            ),
            Measure("the same for M >= R", lambda a: _entropy_steps(a, 1.0), "< 1: it falls", (-INF, 1.0), "log"),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control(
        "alpha replaced by 1, as if all rows lay along the first",
        measures=dict.fromkeys(TIERS, (within("M + R", lambda a: _leading_ratios(a, 1.0)),)),
    ),
)


# NX-I10 ---------------------------------------------------------------------------------------------------------
def _factors(arm: str, run: Any) -> Array:
    if arm == "signed_paths":
        return bounds.signed_path_factors(run["weights"])
    if arm == "paths_beside_sink":
        return bounds.path_factors_beside_sink(run["weights"], run["sink_mass"])
    return bounds.path_factors(run["weights"])


def _path_ratios(a: Arms, arm: str, factors: str = "") -> Array:
    run = a[arm].arrays
    bound = bounds.path_sum(_factors(factors or arm, run), run["growth"])
    # Where no path leads, both are 0.
    return run["jacobian"] / np.maximum(bound, 1e-12)


def _attained_paths(a: Arms, arm: str) -> Array:
    """Largest ratios: without cancellation between every two tokens, and for the one path over all tokens."""
    ratios, turn = _path_ratios(a, arm), a[arm].arrays["turn"]
    between = ratios[turn == 1].max(0)[np.tril_indices(ratios.shape[1])]
    return np.append(between, ratios[turn == 2, -1, 0].max())


def _both_ways(arm: str, name: str) -> tuple[Measure, Measure]:
    return (
        within(name, lambda a: _path_ratios(a, arm)),
        attained(f"{name}, by pair of tokens and along one path", lambda a: _attained_paths(a, arm)),
    )


I10 = Claim(
    id="NX-I10",
    source="2504.02732, the theorem on over-squashing; signs are new",
    statement="With frozen attention and residuals, |dy_n/dv_i| is at most C^L times the sum over paths of products of "
    "sum_h |a^h_ij + delta_ij/H|, or of sum_h |a^h_ij| + delta_ij where weights have signs; mass rho on a sink of "
    "value zero multiplies every step between two tokens by 1 - rho.",
    kind="identity",
    evidence=evidence(
        frozen_paths=PathJacobian(),
        signed_paths=PathJacobian("signed"),
        paths_beside_sink=PathJacobian("empty sink"),
        paths_through_sink=PathJacobian("valued sink"),
    ),
    measures=dict.fromkeys(
        TIERS,
        (
            *_both_ways("frozen_paths", "Jacobian"),
            *_both_ways("signed_paths", "Jacobian with signed weights"),
            *_both_ways("paths_beside_sink", "Jacobian beside a sink"),
            Measure(
                "Jacobian with signed weights: largest ratio to the bound for weights without signs",
                lambda a: float(_path_ratios(a, "signed_paths", "frozen_paths").max()),
                "> 1: signs need a bound of their own",
                (1.01, INF),
                "log",
            ),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("a sink whose value is the first token's", {"paths_beside_sink": "paths_through_sink"}),
    note="No MLP and no norm. Instances without cancellation and with one path attain the bound. The step from a token "
    "to itself becomes 1 + (1 - rho) a: a sink does not slow the residual.",
)


# NX-I11 ---------------------------------------------------------------------------------------------------------
def _through_attention(weights: Array, factor: Array) -> Array:
    """[B, T, T, d, d] of weights [B, T, T] and factors that broadcast to the result."""
    return weights[..., None, None] * factor


def _value_gated(a: Arms) -> tuple[Array, Array]:
    run = a["gate_reads_value"].arrays
    factor = bounds.value_gated_jacobian(run["value"], run["gate_weight"][:, None])
    return run["jacobian"], _through_attention(run["weights"], factor[:, None])


def _without_second_term(a: Arms) -> tuple[Array, Array]:
    run = a["gate_reads_value"].arrays
    logit = (run["value"] * run["gate_weight"][:, None]).sum(-1)
    factor = bounds.input_gated_jacobian(logit, run["value"].shape[-1])
    return run["jacobian"], _through_attention(run["weights"], factor[:, None])


def _input_gated(a: Arms) -> tuple[Array, Array]:
    run = a["gate_reads_input"].arrays
    factor = bounds.input_gated_jacobian(run["logit"], run["value"].shape[-1])
    return run["jacobian"], _through_attention(run["weights"], factor[:, None])


def _query_gated(a: Arms) -> tuple[Array, Array]:
    run = a["gate_of_query"].arrays
    factor = bounds.input_gated_jacobian(run["logit"], run["value"].shape[-1])
    return run["jacobian"], _through_attention(run["weights"], factor[:, :, None])


def _shut(run: Any) -> tuple[Array, Array]:
    """Largest derivatives in the value at the shut gate: [B] of that query's output, [B] of the others'."""
    each, shut = np.arange(len(run["shut"])), run["shut"]
    sizes = np.abs(run["jacobian"]).max((-1, -2))[each, :, shut]
    own = sizes[each, shut].copy()
    sizes[each, shut] = 0.0
    return own, sizes.max(1)


def _cut(arm: str, name: str) -> Measure:
    def extract(a: Arms) -> float:
        return float(max(part.max() for part in _shut(a[arm].arrays)))

    return Measure(f"{name}: largest gradient to the value behind the shut gate", extract, "0", (-INF, EXACT))


I11 = Claim(
    id="NX-I11",
    source="2510.09017",
    statement="d(g v)/dv = g I + g (1 - g) v w^T for a gate g = sigmoid(v.w) on the key side, without the second term "
    "where it reads x; shut, it cuts the gradient to v either way, where a gate on the query side cuts only its own "
    "query's contribution.",
    kind="identity",
    evidence=evidence(
        gate_reads_value=ValueGate(),
        gate_reads_input=ValueGate("key side, reads the input"),
        gate_of_query=ValueGate("query side"),
    ),
    measures=dict.fromkeys(
        TIERS,
        (
            equal("Jacobian, gate reads v", _value_gated),
            unequal("Jacobian, gate reads v, against g I alone", _without_second_term, 0.01),
            equal("Jacobian, gate reads x", _input_gated),
            equal("Jacobian, gate of the query", _query_gated),
            _cut("gate_reads_value", "gate reads v"),
            _cut("gate_reads_input", "gate reads x"),
            Measure(
                "gate of the query: largest gradient of its own output",
                lambda a: float(_shut(a["gate_of_query"].arrays)[0].max()),
                "0",
                (-INF, EXACT),
            ),
            Measure(
                "gate of the query: largest gradient of the other outputs, median over instances",
                lambda a: float(np.median(_shut(a["gate_of_query"].arrays)[1])),
                "> 0.01: they still learn from that value",
                (0.01, INF),
                "log",
            ),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control(
        "the gate on the query side in the place of the two on the key side",
        {"gate_reads_value": "gate_of_query", "gate_reads_input": "gate_of_query"},
    ),
)

CLAIMS = (I5, I7, I9, I10, I11)
