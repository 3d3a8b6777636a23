"""Verdicts as JSON: complete, strict, read back with mistakes named, and compared."""

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from experiments.environment import environment
from experiments.evidence import EvidenceStore
from experiments.publish import document
from experiments.results import Result, compare, read_claims, to_json
from experiments.runner import Reporter, verify
from theory.claim import Measure
from theory.judge import Verdict

MEASURE = {"name", "predicted", "measured", "ci95", "ci95_samples", "n", "values", "tolerance", "inside", "scale"}
CLAIM = {"id", "source", "statement", "kind", "tier", "status", "expected", "measures", "control", "arms", "evidence"}
CLAIM |= {"figure", "seconds", "note"}
DOCUMENT = {"schema", "profile", "created", "command", "versions", "device", "seconds", "sizes", "claims"}


def strictly(data: Any) -> Any:
    """What another reader gets: JSON knows neither NaN nor Infinity."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(json.dumps(data, allow_nan=False), parse_constant=refuse)


@pytest.fixture
def results(numbers: ModuleType, study: Any, store: EvidenceStore) -> Sequence[Result]:
    return verify(numbers.three(), "quick", range(3), store, Reporter())


def test_document_has_every_field(results: Sequence[Result]) -> None:
    data = strictly(document(results, "quick", "jaxsink verify", 1.25))
    assert set(data) == DOCUMENT
    assert (data["schema"], data["profile"], data["command"], data["seconds"]) == (1, "quick", "jaxsink verify", 1.2)
    assert {"jaxsink", "jax", "python"} <= set(data["versions"])
    assert environment()["device"] in data["device"]
    assert data["sizes"] == ["number left", "number right", "number other"]
    for entry, result in zip(data["claims"], results, strict=True):
        assert set(entry) == CLAIM
        assert set(entry["control"]) == {"setting", "expected", "status", "measures"}
        assert all(set(m) == MEASURE for m in [*entry["measures"], *entry["control"]["measures"]])
        assert entry["evidence"] == sorted({run.key for runs in result.runs.values() for run in runs})


def test_entry_says_what_was_measured(results: Sequence[Result]) -> None:
    entry = strictly(to_json(results[0]))
    assert (entry["id"], entry["tier"], entry["status"], entry["expected"]) == (
        "NA1",
        "quick",
        "supported",
        "supported",
    )
    first, second = entry["measures"]
    assert first["values"] == [1.0, 1.01, 1.02]
    assert (first["n"], first["inside"], first["tolerance"]) == (3, True, [0, 2])
    assert first["measured"] == pytest.approx(1.01)
    # t(.975, 2) = 4.302653 times the standard error .01 / sqrt(3), to seven digits.
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert first["ci95"] == pytest.approx([1.01 - half, 1.01 + half], rel=1e-7)
    assert first["ci95_samples"] is None  # its evidence does not consist of samples
    assert second["name"] == "number of right"
    assert entry["control"]["status"] == "refuted"
    assert entry["control"]["measures"][0]["tolerance"] == [100, None]
    assert set(entry["arms"]) == {"left", "right"}
    assert [len(keys) for keys in entry["arms"].values()] == [3, 3]
    assert entry["seconds"] == 3.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_become_null(
    numbers: ModuleType, study: Any, store: EvidenceStore, value: float
) -> None:
    measure = Measure("wild", lambda arms: value, "anything", (-math.inf, math.inf))
    claim = numbers.claim("NW1", numbers.Number("left"), measures={"quick": (measure,)})
    (result,) = verify([claim], "quick", range(3), store, Reporter())
    (written,) = strictly(to_json(result))["measures"]
    assert (written["measured"], written["ci95"], written["inside"]) == (None, None, None)
    assert written["values"] == [None] * 3
    assert written["tolerance"] == [None, None]
    assert result.verdict.status == "inconclusive"


def test_what_was_not_run_is_written_too(numbers: ModuleType) -> None:
    claim = numbers.claim("NA1", numbers.Number("left"), note="Mind the gap.")
    entry = strictly(to_json(Result(claim, "quick", Verdict("not run", note="why not"), {}, failed=True)))
    assert set(entry) == CLAIM
    assert (entry["status"], entry["measures"], entry["evidence"]) == ("not run", [], [])
    assert entry["note"] == "Mind the gap. [why not]"


@pytest.fixture
def data(results: Sequence[Result]) -> dict[str, Any]:
    return dict(strictly(document(results, "quick", "jaxsink verify", 1.0)))


def test_equal_documents_do_not_differ(data: dict[str, Any]) -> None:
    later = copy.deepcopy(data) | {"created": "later", "seconds": 99.0, "command": "other", "device": "other"}
    later["claims"].reverse()
    assert compare(data, later) == []


def test_another_status_is_a_difference(data: dict[str, Any]) -> None:
    other = copy.deepcopy(data)
    other["claims"][1]["status"] = "refuted"
    assert compare(data, other) == [("NB1", "status", "supported", "refuted")]
    assert compare(other, data) == [("NB1", "status", "refuted", "supported")]


def test_measures_differ_by_place_or_by_intervals_apart(data: dict[str, Any]) -> None:
    other = copy.deepcopy(data)
    measure = other["claims"][0]["measures"][1]
    measure |= {"measured": 1.52, "ci95": [1.5, 1.54]}
    assert compare(data, other) == []  # the intervals overlap, and both are inside
    measure |= {"inside": None}
    ((claim, what, mine, theirs),) = compare(data, other)
    assert (claim, what) == ("NA1", "number of right")
    assert mine.startswith("1.51 [1.485, 1.535]")
    assert mine.endswith("inside")
    assert theirs == "1.52 [1.5, 1.54], undecided"
    measure |= {"measured": 1.8, "ci95": [1.7, 1.9], "inside": True}
    assert compare(data, other)[0][3] == "1.8 [1.7, 1.9], inside"
    measure |= {"measured": None, "ci95": None}
    assert compare(data, other)[0][3] == "not finite, inside"


def test_another_profile_and_absent_claims_are_differences(data: dict[str, Any]) -> None:
    other = copy.deepcopy(data) | {"profile": "paper"}
    del other["claims"][0]
    assert compare(data, other) == [("all", "profile", "quick", "paper"), ("NA1", "claim", "present", "absent")]
    assert compare(other, data) == [("all", "profile", "paper", "quick"), ("NA1", "claim", "absent", "present")]


def test_a_measure_that_only_one_side_has_is_a_difference(data: dict[str, Any]) -> None:
    other = copy.deepcopy(data)
    del other["claims"][0]["measures"][1]
    assert compare(data, other) == [("NA1", "number of right", "measured", "absent")]
    assert compare(other, data) == [("NA1", "number of right", "absent", "measured")]


def test_another_outcome_of_the_control_is_a_difference(data: dict[str, Any]) -> None:
    other = copy.deepcopy(data)
    other["claims"][2]["control"]["status"] = "inconclusive"
    assert compare(data, other) == [("NB2", "control", "refuted", "inconclusive")]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "no readable claims.json"),
        (b"{", "no readable claims.json"),
        (b"\xff\xfe", "no readable claims.json"),
        (b"[]", "holds no claims"),
        (b'{"schema": 1}', "holds no claims"),
        (b'{"schema": 2, "claims": []}', "has schema 2, and this version reads 1"),
    ],
)
def test_a_file_that_is_no_claims_json_is_named(tmp_path: Path, content: bytes | None, what: str) -> None:
    path = tmp_path / "claims.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=what) as caught:
        read_claims(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
