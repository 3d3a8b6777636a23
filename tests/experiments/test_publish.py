"""Publishing: what stands in the folder of a report, and whose files it may replace."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from matplotlib.figure import Figure

from experiments import publish as publishing
from experiments.evidence import EvidenceStore
from experiments.publish import claim_output, publish
from experiments.report.overview import SECTIONS
from experiments.results import Result, read_claims
from experiments.runner import Reporter, verify
from theory.claims import BUILT_IN

PNG, SVG = b"\x89PNG\r\n\x1a\n", b"<?xml"


@pytest.fixture
def results(numbers: ModuleType, study: Any, store: EvidenceStore) -> Sequence[Result]:
    """Two verdicts, one refuted, and a claim that was not run."""
    both, one, other = numbers.three()
    judged = verify([one, other], "quick", range(2), store, Reporter())
    return [*verify([both], "quick", range(2), store, Reporter(), from_results=True), *judged]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_is_complete(results: Sequence[Result], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    claim_output(out)
    assert publish(results, out, "quick", "jaxsink verify NA NB", 12.0) == out / "report.html"
    files = tree(out)
    assert set(files) == {
        "claims.json",
        "report.html",
        *(f"figures/{claim}.{kind}" for claim in ("NB1", "NB2") for kind in ("png", "svg")),
    }
    assert all(content.startswith(PNG) for name, content in files.items() if name.endswith(".png"))
    assert all(content.startswith(SVG) for name, content in files.items() if name.endswith(".svg"))
    data = read_claims(out / "claims.json")
    assert [(c["id"], c["status"], c["figure"]) for c in data["claims"]] == [
        ("NA1", "not run", None),
        ("NB1", "supported", "figures/NB1.png"),
        ("NB2", "refuted", "figures/NB2.png"),
    ]
    page = files["report.html"].decode()
    for words in ("jaxsink verify NA NB", "its evidence is not stored", *(c["statement"] for c in data["claims"])):
        assert words in page
    assert page.count("data:image/png;base64,") == 2


def test_many_pictures_are_drawn_by_several_processes(
    results: Sequence[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_output(tmp_path / "one")
    publish(results, tmp_path / "one", "quick", "jaxsink verify", 1.0)
    monkeypatch.setattr(publishing, "MANY", 0)
    claim_output(tmp_path / "several")
    publish(results, tmp_path / "several", "quick", "jaxsink verify", 1.0)
    alone, together = tree(tmp_path / "one"), tree(tmp_path / "several")
    assert set(alone) == set(together)
    for name in alone:
        if name.endswith(".png"):
            assert alone[name] == together[name]


def test_a_report_replaces_the_one_before(results: Sequence[Result], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for command, some in (("first", results), ("second", results[1:2])):
        claim_output(out)
        publish(some, out, "quick", command, 1.0)
    assert [c["id"] for c in read_claims(out / "claims.json")["claims"]] == ["NB1"]
    page = (out / "report.html").read_text()
    assert "second" in page
    assert "NB2" not in page


def test_no_figure_of_another_report_stays(results: Sequence[Result], tmp_path: Path) -> None:
    out = tmp_path / "out"
    claim_output(out)
    publish(results, out, "quick", "first", 1.0)
    publish(results[1:2], out, "quick", "second", 1.0)
    assert {path.name for path in (out / "figures").iterdir()} == {"NB1.png", "NB1.svg"}


def test_files_of_somebody_else_are_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "BB1.png").write_bytes(b"mine, too")
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="holds files that jaxsink did not write; name an empty or new folder"):
        claim_output(tmp_path)
    assert tree(tmp_path) == before


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    claim_output(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("file", "is a file, but a folder is needed"),
        ("file/out", "cannot be written"),
        ("/proc/out", "cannot be written"),
        ("/dev/null", "is a file, but a folder is needed"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, place: str, what: str) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / place  # an absolute place replaces the folder
    with pytest.raises(ValueError, match=what) as caught:
        claim_output(out)
    assert f"--out {out}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("stage", ["write_json", "figures.save", "render"])
def test_after_a_failure_the_same_command_may_be_given_again(
    results: Sequence[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "out"
    claim_output(out)
    with monkeypatch.context() as patch:
        patch.setattr(f"experiments.publish.{stage}", refuse)
        with pytest.raises(OSError, match="No space"):
            publish(results, out, "quick", "jaxsink verify", 1.0)
    claim_output(out)
    publish(results, out, "quick", "jaxsink verify", 1.0)
    assert read_claims(out / "claims.json")["command"] == "jaxsink verify"


def test_verdicts_survive_a_figure_that_cannot_be_drawn(
    results: Sequence[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any) -> None:
        raise RuntimeError("no colours")

    out = tmp_path / "out"
    claim_output(out)
    monkeypatch.setattr(publishing.figures, "save", fault)
    with pytest.raises(RuntimeError, match="no colours"):
        publish(results, out, "quick", "jaxsink verify", 1.0)
    assert [c["status"] for c in read_claims(out / "claims.json")["claims"]] == ["not run", "supported", "refuted"]


def test_pictures_of_other_runs_are_other_pictures(
    numbers: ModuleType, study: Any, store: EvidenceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three claims have an arm "left": two share its runs, the third, a user's own, has runs of its own.
    drawn: list[tuple[str, float]] = []

    def bars(runs: Any, claim: Any) -> Figure:
        drawn.extend((arm, float(each[0].arrays["value"])) for arm, each in runs.items())
        return Figure()

    monkeypatch.setattr(publishing.figures, "FIGURES", {"bars": bars})
    left, own = numbers.Number("left"), numbers.Number("left", 1.25)
    claims = [numbers.claim(f"NB{i}", arm, figure="bars") for i, arm in enumerate((left, left, own))]
    out = tmp_path / "out"
    claim_output(out)
    publish(verify(claims, "quick", range(2), store, Reporter()), out, "quick", "jaxsink verify", 1.0)
    assert drawn == [("left", 1.0), ("left", 1.25)]
    assert len(list((out / "figures").glob("bars-*.png"))) == 2


def test_every_picture_that_is_asked_for_exists() -> None:
    arms = {arm for claim in BUILT_IN for tier in claim.evidence.values() for arm in tier}
    for rows in SECTIONS.values():
        for name, row in rows.items():
            assert name in publishing.figures.FIGURES
            assert set(row.arms) <= arms
    assert {claim.figure for claim in BUILT_IN} <= set(publishing.figures.FIGURES)
