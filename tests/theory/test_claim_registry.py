"""The built-in claims are complete, their runs are what their names say, and users' claims join them."""

import dataclasses
import importlib
import re
import sys
import typing
from types import SimpleNamespace

import pytest

from jaxsink.attention import ReLU, Softmax
from jaxsink.models import TransformerConfig
from jaxsink.training import SGD, AdamW, HoldNorm, HoldValue, TrainConfig, UniformAttention, digest
from theory import claims
from theory.calculations import Calculation
from theory.checkpoint import FirstToken, Passages
from theory.claim import TIERS, Status
from theory.claims import BUILT_IN, all_claims, arms, select
from theory.costs import Costs
from theory.heads import HeadZeroing
from theory.small_language import SmallLanguage
from theory.small_models import SmallModel
from theory.survey import Survey

TRAINED = [*(f"BB{i}" for i in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11)), *(f"RP{i}" for i in (1, 2, 3, 4, 5, 6, "6b", 8))]
IDS = [
    "TH1",
    *(f"TH2{letter}" for letter in "abcdef"),
    *("TH3", "TH3b", "TH4a", "TH4b", "TH4c", "TH6a", "TH6b", "TH6c", "TH6d"),
    *("NX-N1", "NX-N2", "NX-N3", "NX-N4", "NX-P1", "NX-P2"),
    *(f"NX-R{i}" for i in range(1, 6)),
    *(f"NX-I{i}" for i in range(1, 12)),
    *TRAINED,
    *("BB10a", "BB10b", "BB10c"),
    *("BB12", "BB13", "BB14"),
    *("BB-T1", "BB-T2"),
    *("OQ3a", "OQ3b", "OQ3c", "OQ3d", "OQ3e", "OQ3f", "OQ6"),
    *("WV1", "WV2", "WV2b", "WV3", "WV3b", "WV4", "WV6", "WV6b"),
    *("WV5", "WV5b", "WV5c", "WV5d", "WV7", "WV7b", "WV8"),
    *("WV8b", "WV8c", "WV8d", "WV8e", "WV8f", "WV8g"),
    *("WV9", "WV9b", "WV9c", "WV9d", "WV10", "WV10b", "WV10c", "WV10d", "WV10e"),
    *("LM1", "LM1b", "LM2", "LM2b", "LM2c", "LM3", "LM3b", "LM4", "LM4b", "LM5", "LM6"),
    *("LM7", "LM7b", "LM7c"),
]
EACH = pytest.mark.parametrize("claim", BUILT_IN, ids=lambda claim: claim.id)


def test_all_are_there_once():
    assert [claim.id for claim in BUILT_IN] == IDS
    assert list(all_claims())[: len(IDS)] == IDS


@EACH
def test_a_claim_is_complete(claim):
    # Five structures of three blocks would take the quick tier another quarter of an hour.
    assert set(claim.evidence) == set(claim.measures) == ({"paper"} if claim.id == "RP4" else set(TIERS))
    assert all(claim.measures.values())
    assert re.search(r"\b\d{4}\.\d{4,5}\b|^elementary|^new$", claim.source)  # an arXiv number, or why there is none
    assert claim.statement.endswith(".")
    assert set(claim.expected) == set(claim.evidence)
    assert set(claim.expected.values()) <= set(typing.get_args(Status))
    for measures in claim.measures.values():
        names = [measure.name for measure in measures]
        assert len(set(names)) == len(names)
        for measure in measures:
            low, high = measure.tolerance
            assert low < high
            assert (low, high) != (float("-inf"), float("inf")), "a measure that nothing fails"


@EACH
def test_a_control_can_be_read(claim):
    control = claim.control
    # A claim that is refuted needs a control that the same measures support.
    refuted = ("TH3b", "BB12", "LM1b", "WV2b", "WV3", "WV5b", "WV5c", "WV6b", "WV7b", "LM3", "LM4b", "WV8b", "WV8e")
    refuted += ("LM7", "LM7b", "OQ3a", "OQ3b")
    assert control.expected == ("supported" if claim.id in refuted else "refuted")
    assert control.setting
    # It differs from the claim: by its arms, or by what is measured.
    assert bool(control.swap) != (control.measures is not None)
    for tier in claim.evidence:
        assert {*control.swap, *control.swap.values()} <= set(claim.evidence[tier])
        assert all(of != to for of, to in control.swap.items())
        if control.measures is not None:
            assert control.measures[tier]
            assert control.measures[tier] != claim.measures[tier]


@EACH
def test_a_claim_has_a_figure_that_exists(claim):
    figures = importlib.import_module("experiments.figures")
    assert claim.figure in figures.FIGURES


@EACH
def test_arms_of_a_claim_are_different_runs(claim):
    for specs in claim.evidence.values():
        assert len({digest(spec.describe()) for spec in specs.values()}) == len(specs)


# The runs -------------------------------------------------------------------------------------------------------
def changed(spec, base):
    """The fields of a configuration, nested ones by path, in which it differs from another."""
    found = {}
    for field in dataclasses.fields(base):
        left, right = getattr(spec, field.name), getattr(base, field.name)
        if left == right:
            continue
        if type(left) is type(right) and dataclasses.is_dataclass(left):
            found |= {f"{field.name}.{name}": value for name, value in changed(left, right).items()}
        else:
            found[field.name] = left
    return found


def test_the_paper_tier_has_the_source_s_numbers():
    run = arms.SOFTMAX["paper"]
    assert (run.model.d_model, run.model.n_layers, run.model.n_heads) == (256, 1, 1)
    assert (run.length, run.batch, run.steps, run.loss_on) == (256, 512, 10_000, "all")
    assert run.optimiser == AdamW(rate=3e-4, b1=0.9, b2=0.99, eps=1e-8, weight_decay=1e-4)
    assert (run.task.n_triggers, run.task.starts, run.task.copy_probability) == (3, 1, 1.0)
    assert run.model.attention == Softmax()
    assert run == TrainConfig()


@pytest.mark.parametrize("tier", TIERS)
def test_an_arm_differs_from_its_base_as_its_name_says(tier):
    sgd = SGD(rate=0.03, momentum=0.9, weight_decay=1e-4)
    softmax, deep = arms.SOFTMAX[tier], arms.DEEP_ADAM[tier]

    def but_for_length(spec, base):
        # Quick runs stop where nothing happens any more.
        return {name: value for name, value in changed(spec, base).items() if name != "steps"}

    assert but_for_length(arms.RELU[tier], softmax) == {"model.attention": ReLU()}
    assert but_for_length(arms.TRIGGERS_ONLY[tier], softmax) == {"loss_on": "triggers"}
    assert but_for_length(arms.WITHOUT_START[tier], softmax) == {"task.starts": 0}
    assert but_for_length(arms.HALF_COPIED[tier], softmax) == {"task.copy_probability": 0.5}
    assert but_for_length(arms.MARKOV[tier], softmax) == {"task.copy_probability": 0.0}
    assert changed(arms.DEEP_SGD[tier], deep) == {"optimiser": sgd}
    assert but_for_length(arms.DEEP_RELU[tier], deep) == {"model.attention": ReLU()}
    smaller = {"batch": deep.batch, "probe_batch": deep.probe_batch} if tier == "quick" else {}
    assert but_for_length(deep, softmax) == {"model.n_layers": 3, **smaller}
    assert softmax.model.attention == deep.model.attention == Softmax()
    # ReLU learns at the rate of softmax, whatever the source did.
    assert arms.RELU[tier].optimiser == softmax.optimiser
    assert arms.DEEP_RELU[tier].optimiser == deep.optimiser
    assert isinstance(deep.optimiser, AdamW)


@pytest.mark.parametrize("tier", TIERS)
def test_an_arm_of_causes_cuts_what_its_name_says(tier):
    value, peak = "blocks.0.v", {"quick": 30, "paper": 200}[tier]
    cut = [
        (arms.VALUE_FROZEN, HoldValue(value, 0, 0)),
        (arms.ATTENTION_UNIFORM, UniformAttention(0, 0, 0)),
        (arms.NORM_HELD_START, HoldNorm(value, 0, 0)),
        (arms.NORM_HELD_PEAK, HoldNorm(value, 0, peak)),
        (arms.NORM_HELD_LATE, HoldNorm(value, 0, 1000)),
    ]
    for arm, intervention in cut:
        differences = changed(arm[tier], arms.SOFTMAX[tier])
        assert differences.pop("interventions") == (intervention,)
        # Until the cut begins it is the very run that it is compared with.
        assert set(differences) <= {"steps"}
        assert arm["paper"].steps == 10_000


def test_the_paper_tier_shortens_nothing():
    runs = (arms.SOFTMAX, arms.RELU, arms.TRIGGERS_ONLY, arms.DEEP_ADAM, arms.DEEP_SGD, arms.DEEP_RELU)
    runs += (arms.WITHOUT_START, arms.HALF_COPIED, arms.MARKOV)
    assert {(run["paper"].steps, run["paper"].batch) for run in runs} == {(10_000, 512)}


def test_the_quick_tier_is_the_same_training_in_small():
    sizes = {"model.d_model", "length", "batch", "steps"}
    deep = sizes | {"probe_batch"}
    for quick in (arms.SOFTMAX, arms.TRIGGERS_ONLY, arms.RELU, arms.DEEP_ADAM, arms.DEEP_RELU):
        differences = changed(quick["quick"], quick["paper"])
        assert differences.pop("optimiser.rate") == 3e-3  # ten times the paper's
        assert set(differences) == (sizes if quick["quick"].model.n_layers == 1 else deep)
    assert set(changed(arms.DEEP_SGD["quick"], arms.DEEP_SGD["paper"])) == deep


def test_the_rates_of_sgd_are_those_their_names_say():
    (rp2,) = (claim for claim in BUILT_IN if claim.id == "RP2")
    rates = {name: spec for name, spec in rp2.evidence["paper"].items() if name.startswith("deep_sgd_")}
    assert set(rates) == {"deep_sgd_0.003", "deep_sgd_0.01", "deep_sgd_0.1"}
    for name, spec in rates.items():
        assert changed(spec, arms.DEEP_SGD["paper"]) == {"optimiser.rate": float(name.removeprefix("deep_sgd_"))}


def test_the_structures_of_rp4_are_those_their_names_say():
    (rp4,) = (claim for claim in BUILT_IN if claim.id == "RP4")
    names = {"block": "AM", "blocks": "AM", "attention": "A", "mlp": "M"}
    for name, spec in rp4.evidence["paper"].items():
        assert set(changed(spec, arms.DEEP_ADAM["paper"])) <= {
            f"model.{field}" for field in ("n_layers", "layers_without_attention", "layers_without_mlp")
        }
        model = spec.model
        parts = [
            "A" * (i not in model.layers_without_attention) + "M" * (i not in model.layers_without_mlp)
            for i in range(model.n_layers)
        ]
        words = "block_block_block" if name == "deep_adam" else name.replace("two_blocks", "block_block")
        assert parts == [names[word] for word in words.split("_")]


def test_steps_fit_their_chunks():
    specs = [spec for claim in BUILT_IN for by_arm in claim.evidence.values() for spec in by_arm.values()]
    surveys = [spec for spec in specs if isinstance(spec, Survey)]
    trained = [spec for spec in specs if isinstance(spec, TrainConfig)]
    small = [spec for spec in specs if isinstance(spec, SmallModel | Costs)]
    # A small language model looks at its chunks itself.
    untrained = [spec for spec in specs if spec not in [*surveys, *trained, *small]]
    others = Calculation | Passages | FirstToken | HeadZeroing | SmallLanguage
    assert all(isinstance(spec, others) for spec in untrained)
    runs = trained + [run for survey in surveys for _, run in survey.runs()] + [spec.run for spec in small]
    assert all(spec.steps % spec.chunk_steps == 0 and isinstance(spec.model, TransformerConfig) for spec in runs)


# Choosing -------------------------------------------------------------------------------------------------------
TABLE = {claim_id: SimpleNamespace(id=claim_id) for claim_id in (*TRAINED, "NX-I1", "NX-I10", "NX-J")}


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (["BB1"], ["BB1"]),
        (["BB11"], ["BB11"]),
        (["BB"], TRAINED[:10]),
        (["RP", "BB1"], ["BB1", *TRAINED[10:]]),
        (["RP2", "RP2"], ["RP2"]),
        (["NX-I"], ["NX-I1", "NX-I10"]),
        (["NX-I1"], ["NX-I1"]),
        (["NX"], ["NX-I1", "NX-I10", "NX-J"]),
        ([], list(TABLE)),
    ],
)
def test_select(wanted, ids):
    assert [claim.id for claim in select(TABLE, wanted)] == ids


@pytest.mark.parametrize(("wanted", "nearest"), [("bb1", "BB1"), ("RP22", "RP2"), ("NX-j", "NX-J"), ("BB111", "BB11")])
def test_an_unknown_claim_names_the_nearest(wanted, nearest):
    with pytest.raises(ValueError, match=rf"there is no claim '{wanted}'; the nearest is '{nearest}' .*\)\.$"):
        select(TABLE, ["BB2", wanted])


# Users' claims --------------------------------------------------------------------------------------------------
@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that only this test can import."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


OWN = """
import dataclasses
from theory.claims import BUILT_IN
CLAIMS = (dataclasses.replace(BUILT_IN[0], id={id!r}),)
"""


def test_a_module_adds_its_claims(module):
    table = all_claims([module("own_claims_of_a_user", OWN.format(id="MY1"))])
    assert list(table) == [*all_claims(), "MY1"]
    assert table["MY1"].measures == BUILT_IN[0].measures
    assert [claim.id for claim in select(table, ["MY"])] == ["MY1"]


def test_a_package_adds_its_claims(monkeypatch):
    own = dataclasses.replace(BUILT_IN[0], id="PKG1")
    groups = []

    def entry_points(*, group):
        groups.append(group)
        return [SimpleNamespace(load=lambda: (own,))]

    monkeypatch.setattr(claims, "entry_points", entry_points)
    assert all_claims()["PKG1"] is own
    assert groups == ["jaxsink.claims"]


def test_an_id_is_given_once(module):
    first = module("first_claims_of_a_user", OWN.format(id="MY1"))
    second = module("second_claims_of_a_user", OWN.format(id="MY1"))
    with pytest.raises(ValueError, match="claim id 'MY1' is taken by two claims"):
        all_claims([first, second])
    with pytest.raises(ValueError, match="claim id 'BB1' is taken by two claims"):
        all_claims([module("built_in_again", OWN.format(id="BB1"))])


def test_a_module_without_claims(module):
    name = module("no_claims_of_a_user", "X = 1\n")
    with pytest.raises(ValueError, match=f"claims module '{name}' must be importable and hold a tuple CLAIMS"):
        all_claims([name])
    with pytest.raises(ValueError, match="claims module 'not_there_at_all' must be importable"):
        all_claims(["not_there_at_all"])
