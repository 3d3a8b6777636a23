"""Claims NX-I1 to NX-I4, NX-I6 and NX-I8: identities of attention over drawn inputs."""

from __future__ import annotations

import numpy as np

from theory import identities
from theory.calculations.identities import (
    INVARIANT,
    MOVING,
    Clipping,
    ExtraKey,
    FirstKeyMass,
    KeyValueSlot,
    Shift,
    ShiftedRows,
    SinkGate,
)
from theory.claim import TIERS, Arms, Claim, Control, Measure
from theory.claims.exactness import EXACT, INF, equal, evidence, unequal

Array = np.ndarray


def _by_query(by_head: Array) -> Array:
    """[..., T, N, 1] of [..., N, T], to stand beside outputs."""
    return np.swapaxes(by_head, -1, -2)[..., None]


def _mean_within(name: str, arm: str, array: str, low: float, high: float) -> Measure:
    return Measure(name, lambda a: float(a[arm].arrays[array].mean()), f"{low} to {high}", (low, high))


# NX-I1 ----------------------------------------------------------------------------------------------------------
def _gate(a: Arms) -> Array:
    run = a["sink_gate"].arrays
    return identities.sink_gate(run["lse"], run["sink"][:, :, None])


def _gated(a: Arms) -> tuple[Array, Array]:
    run = a["sink_gate"].arrays
    return run["output"], _by_query(_gate(a)) * run["softmax_output"]


I1 = Claim(
    id="NX-I1",
    source="elementary; the sink logit is that of 2508.10925",
    statement="A sink logit a is an output gate: o = sigmoid(LSE - a) o_softmax, for every query head.",
    kind="identity",
    evidence=evidence(sink_gate=SinkGate(), sink_gate_of_the_next_head=SinkGate(heads_away=1)),
    measures=dict.fromkeys(
        TIERS,
        (
            equal("output against gated softmax output", _gated),
            equal("mass on the keys against the gate", lambda a: (a["sink_gate"].arrays["row_mass"], _gate(a))),
            _mean_within("mean mass on the keys", "sink_gate", "row_mass", 0.1, 0.9),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("the gate of the next head's sink logit", {"sink_gate": "sink_gate_of_the_next_head"}),
    note="Four query heads share two key heads. The last query sees no key: its gate is 0.",
)


# NX-I2 ----------------------------------------------------------------------------------------------------------
def _as_sink(a: Arms) -> tuple[Array, Array]:
    run = a["zero_key"].arrays
    sink = identities.equivalent_sink(run["constants"])
    gate = identities.sink_gate(run["lse"][None], sink[:, None, None, None])
    return run["softmax_n"], _by_query(gate) * run["softmax_output"][None]


def _both(left: str, right: str) -> Measure:
    def sides(a: Arms) -> tuple[Array, Array]:
        run = a["zero_key"].arrays
        return run[left], run[right]

    return equal(f"{left} against {right}", sides)


def _one_as_sink(a: Arms) -> tuple[Array, Array]:
    run = a["zero_key"].arrays
    gate = identities.sink_gate(run["lse"], identities.equivalent_sink(np.ones(1)))
    return run["softmax_1"], _by_query(gate) * run["softmax_output"]


I2 = Claim(
    id="NX-I2",
    source="2309.17453, section 3.3; 2410.17174",
    statement="softmax1 is a sink logit of 0 and is one extra key with k = v = 0; softmax_n is a sink logit of log n.",
    kind="identity",
    evidence=evidence(zero_key=ExtraKey(), key_with_value=ExtraKey(value=1.0)),
    measures=dict.fromkeys(
        TIERS,
        (
            equal("softmax_n against the gate of log n", _as_sink),
            equal("softmax_1 against the gate of log 1", _one_as_sink),
            _both("sink_zero", "softmax_1"),
            _both("extra_key", "softmax_1"),
            _mean_within("mean weight on the extra key", "zero_key", "extra_mass", 0.05, 0.95),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("an extra key with k = 0 whose value is drawn", {"zero_key": "key_with_value"}),
)

# NX-I3 ----------------------------------------------------------------------------------------------------------
_CAP = 1.5
_SLOTS = (("kv_slot", None), ("kv_slot_capped", _CAP))


def _slot_logit(arm: str, softcap: float | None) -> Measure:
    def sides(a: Arms) -> tuple[Array, Array]:
        run = a[arm].arrays
        return run["logit"], identities.slot_logit(run["query"], run["key"], softcap)

    return equal(f"score of the slot, soft-cap {softcap}", sides)


def _slot_output(arm: str, softcap: float | None) -> Measure:
    def sides(a: Arms) -> tuple[Array, Array]:
        run = a[arm].arrays
        added = identities.slot_addition(run["lse"], run["logit"], run["value"])
        return run["output"], run["sink_output"] + added

    return equal(f"output against sink logit plus w* v*, soft-cap {softcap}", sides)


def _uncapped(a: Arms) -> tuple[Array, Array]:
    run = a["kv_slot_capped"].arrays
    return run["logit"], identities.slot_logit(run["query"], run["key"], None)


I3 = Claim(
    id="NX-I3",
    source="KV bias of 2402.17762, eq. 3, and 2410.10781, section 7.3",
    statement="A KV bias (k*, v*) is a sink logit q.k*/sqrt(d) plus w* v*; a soft-cap c applies to the slot as it does "
    "to every key, so that its logit is c tanh(q.k*/(c sqrt(d))).",
    kind="identity",
    evidence=evidence(
        kv_slot=KeyValueSlot(), kv_slot_capped=KeyValueSlot(softcap=_CAP), k_slot=KeyValueSlot(owns_value=False)
    ),
    measures=dict.fromkeys(
        TIERS,
        (
            *(_slot_logit(*slot) for slot in _SLOTS),
            *(_slot_output(*slot) for slot in _SLOTS),
            unequal("score of the slot under a soft-cap against that without", _uncapped, 0.1),
            _mean_within("mean weight on the slot", "kv_slot", "mass", 0.05, 0.95),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("a slot that takes the mass and adds no value: w* v* is left out", {"kv_slot": "k_slot"}),
    note="The slot is one more key and value that every query sees. The sink logit then belongs to the query, not to "
    "the head alone. A query that sees no other key gets v*.",
)


# NX-I4 ----------------------------------------------------------------------------------------------------------
def _unclipped(array: str) -> Measure:
    def sides(a: Arms) -> tuple[Array, Array]:
        run = a["clipped_0_1"].arrays
        return run[array], run[f"softmax_{array}"]

    return equal(f"{array} of clipped(0, 1) against softmax", sides)


def _clipped(arm: str) -> Measure:
    def sides(a: Arms) -> tuple[Array, Array]:
        run = a[arm].arrays
        expected = identities.clipped(run["softmax_weights"], *map(float, run["interval"]))
        return run["weights"], np.where(run["visible"], expected, 0.0)

    return equal(f"weights of {arm} against their definition", sides)


def _zeros(a: Arms) -> float:
    run = a["clipped_below"].arrays
    visible = np.broadcast_to(run["visible"], run["weights"].shape)
    return float((run["weights"][visible] == 0.0).mean())


I4 = Claim(
    id="NX-I4",
    source="2306.12929, eq. 4",
    statement="Clipped softmax with gamma = 0 and zeta = 1 is softmax.",
    kind="identity",
    evidence=evidence(
        clipped_0_1=Clipping(), clipped_below=Clipping(gamma=-0.1), clipped_above=Clipping(gamma=-0.02, zeta=1.3)
    ),
    measures=dict.fromkeys(
        TIERS,
        (
            _unclipped("weights"),
            _unclipped("output"),
            _clipped("clipped_0_1"),
            _clipped("clipped_below"),
            _clipped("clipped_above"),
            Measure("share of visible keys at exactly 0 with gamma = -0.1", _zeros, "> 0.05", (0.05, INF)),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("gamma = -0.1", {"clipped_0_1": "clipped_below"}),
)

# NX-I6 ----------------------------------------------------------------------------------------------------------
# To the four digits in which they are quoted.
_QUOTED = {256: 0.0201, 64: 0.0594, 32: 0.0987}


def _first_key(array: str, predicted: str) -> Measure:
    def sides(a: Arms) -> tuple[Array, Array]:
        run = a["equal_keys"].arrays
        expected = np.array([getattr(identities, predicted)(int(length)) for length in run["lengths"]])
        found = run[array]
        # Relative at every length by itself.
        return (found.T / expected).T, np.ones_like(found)

    return equal(f"{array} against {predicted}", sides)


def _off_quoted(a: Arms) -> float:
    run = a["equal_keys"].arrays
    quoted = np.array([_QUOTED[int(length)] for length in run["lengths"]])
    return float(np.abs(run["mass_of_others"] - quoted[:, None]).max())


I6 = Claim(
    id="NX-I6",
    source="elementary; the no-sink baseline of 2410.13835 and 2410.10781",
    statement="Uniform causal attention gives the first key the mean mass H_T/T, and (H_T - 1)/(T - 1) without its own "
    "row: .0201, .0594, .0987 at T = 256, 64, 32.",
    kind="identity",
    evidence=evidence(equal_keys=FirstKeyMass(), drawn_keys=FirstKeyMass(keys="drawn")),
    measures=dict.fromkeys(
        TIERS,
        (
            _first_key("mass", "first_key_mass"),
            _first_key("mass_of_others", "first_key_mass_of_others"),
            _first_key("baseline", "first_key_mass"),
            _first_key("baseline_of_others", "first_key_mass_of_others"),
            Measure("largest distance from the quoted masses", _off_quoted, "< half a last digit", (-INF, 5e-5)),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("keys that differ, so that attention is not uniform", {"equal_keys": "drawn_keys"}),
    note="baseline is jaxsink.metrics.uniform_baseline.",
)


# NX-I8 ----------------------------------------------------------------------------------------------------------
def _difference(arm: str, which: str) -> Measure:
    def extract(a: Arms) -> float:
        found = a[arm].arrays["difference"]
        return float(found.max() if which == "largest" else found.min())

    if which == "largest":
        return Measure("largest change of an invariant map's weight", extract, "0 up to rounding", (-INF, EXACT))
    return Measure("least over the other maps of the largest change", extract, "> 1e-3", (1e-3, INF))


def _shifted(row: int, name: str) -> Measure:
    def sides(a: Arms) -> tuple[Array, Array]:
        run = a["shifted_rows"].arrays
        return run["after"][row], identities.shifted_weights(run["before"][row], run["shift"])

    return equal(f"shifted weights of {name} against w e^c / (1 + M (e^c - 1))", sides)


def _dead(row: int, name: str) -> Measure:
    def extract(a: Arms) -> float:
        run = a["shifted_rows"].arrays
        return float(run["moves"][row][run["dead"]].max())

    return Measure(f"largest change of a weight in a dead row of {name}", extract, "0", (-INF, EXACT))


def _alive(row: int, name: str) -> Measure:
    def extract(a: Arms) -> float:
        run = a["shifted_rows"].arrays
        return float(run["moves"][row][~run["dead"]].max())

    return Measure(f"largest change of a weight in any other row of {name}", extract, "> 1e-3", (1e-3, INF))


I8 = Claim(
    id="NX-I8",
    source="elementary; definitions in jaxsink.attention",
    statement="Adding a number to all scores of a row leaves softmax, clipped softmax, sparsemax, entmax and elastic "
    "softmax as they are and moves softmax1, sink logit, sigmoid, ReLU and softpick, of which the last two keep their "
    "dead rows.",
    kind="identity",
    evidence=evidence(invariant_maps=Shift(INVARIANT), moving_maps=Shift(MOVING), shifted_rows=ShiftedRows()),
    measures=dict.fromkeys(
        TIERS,
        (
            _difference("invariant_maps", "largest"),
            _difference("moving_maps", "least"),
            _shifted(0, "softmax"),
            _shifted(1, "softmax1"),
            *(_dead(*row) for row in enumerate(("ReLU", "softpick"))),
            *(_alive(*row) for row in enumerate(("ReLU", "softpick"))),
            Measure("number of dead rows", lambda a: float(a["shifted_rows"].arrays["dead"].sum()), "some", (1.0, INF)),
        ),
    ),
    expected=dict.fromkeys(TIERS, "supported"),
    control=Control("the two groups exchanged", {"invariant_maps": "moving_maps", "moving_maps": "invariant_maps"}),
    note="A dead row sees keys and has no score above 0, before and after.",
)

CLAIMS = (I1, I2, I3, I4, I6, I8)
