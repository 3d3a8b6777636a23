"""The command line: what each command does, and its exit code."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from experiments.commands import doctor
from experiments.evidence import EvidenceStore
from jaxsink import __version__

HERE = Path(__file__).parent


# Verify ---------------------------------------------------------------------------------------------------------
def test_verify_judges_and_reports(jaxsink: Any) -> None:
    result = jaxsink.verify()
    assert jaxsink.code(result) == 0
    assert result.stderr == ""
    assert {name: claim["status"] for name, claim in jaxsink.claims.items()} == {
        "NA1": "supported",
        "NB1": "supported",
        "NB2": "refuted",
    }
    assert {"verify-quick/claims.json", "verify-quick/report.html", "verify-quick/figures/NA1.png"} <= set(
        jaxsink.report
    )
    assert jaxsink.runs == [""] * 9
    assert "out/verify-quick/report.html" in result.stdout
    # Verdicts come in the order in which they are known, before the table.
    said = [line.split()[0] for line in result.stdout.splitlines() if re.match(r"N[AB]\d +(supported|refuted)", line)]
    assert said == ["NB1", "NA1", "NB2"]
    again = jaxsink.verify("--from-results", "--strict")
    assert jaxsink.code(again) == 0
    assert len(jaxsink.study.made) == 9


def test_ids_and_prefixes_choose(jaxsink: Any) -> None:
    assert jaxsink.code(jaxsink("verify", "NB", "--claims", "number_claims", "--seeds", "2", "--out", "here")) == 0
    data = json.loads((jaxsink.folder / "here" / "claims.json").read_text())
    assert [claim["id"] for claim in data["claims"]] == ["NB1", "NB2"]
    assert jaxsink.study.made == [("left", 0), ("left", 1), ("other", 0), ("other", 1)]


def test_strict_minds_a_surprise(jaxsink: Any, numbers: ModuleType) -> None:
    jaxsink.offer(*numbers.three("refuted"))
    result = jaxsink.verify()
    assert jaxsink.code(result) == 0
    assert "differs from what is expected: NB1\n" in result.stdout
    assert jaxsink.code(jaxsink.verify("--strict")) == 1
    assert jaxsink.code(jaxsink("verify", "NA1", "NB2", "--claims", "number_claims", "--strict")) == 0


def test_a_broken_check_is_a_surprise(jaxsink: Any, numbers: ModuleType) -> None:
    left = numbers.Number("left")
    jaxsink.offer(numbers.claim("NA1", left, control=numbers.Control("the same")), numbers.three()[1])
    assert jaxsink.code(jaxsink.verify("--strict")) == 1
    assert jaxsink.claims["NA1"]["status"] == "check broken"
    assert jaxsink.claims["NB1"]["status"] == "supported"


def test_one_seed_is_inconclusive_and_no_broken_check(jaxsink: Any) -> None:
    assert jaxsink.code(jaxsink.verify("--seeds", "1")) == 0
    assert {claim["status"] for claim in jaxsink.claims.values()} == {"inconclusive"}
    assert all("at least two" in claim["note"] for claim in jaxsink.claims.values())
    assert {m["ci95"] for claim in jaxsink.claims.values() for m in claim["measures"]} == {None}


def test_without_evidence_from_results_says_so_and_makes_nothing(jaxsink: Any) -> None:
    result = jaxsink.verify("--from-results")
    assert jaxsink.code(result) == 1
    assert "could not be judged: NA1, NB1, NB2\n" in result.stdout
    assert {claim["status"] for claim in jaxsink.claims.values()} == {"not run"}
    assert jaxsink.study.made == []
    assert jaxsink.runs == []


def test_a_tier_that_a_claim_lacks_is_no_failure(jaxsink: Any) -> None:
    result = jaxsink.verify("--profile", "paper", "--strict")
    assert jaxsink.code(result) == 0
    assert result.stdout.count("this claim has no paper tier; it needs --profile quick") == 3
    assert "verify-paper/claims.json" in jaxsink.report


def test_an_interrupt_reports_what_there_is(jaxsink: Any) -> None:
    def before(name: str, seed: int) -> None:
        if name == "right":
            raise KeyboardInterrupt

    jaxsink.study.before = before
    result = jaxsink.verify()
    assert jaxsink.code(result) == 1
    assert [claim["status"] for claim in jaxsink.claims.values()] == ["not run", "supported", "not run"]
    assert "could not be judged: NA1, NB2\n" in result.stdout
    jaxsink.study.before = lambda name, seed: None
    assert jaxsink.code(jaxsink.verify()) == 0
    assert jaxsink.study.made.count(("left", 0)) == 1


def test_force_makes_evidence_anew(jaxsink: Any) -> None:
    assert jaxsink.code(jaxsink.verify()) == 0
    jaxsink.study.shift = 0.25
    assert jaxsink.code(jaxsink.verify("--force")) == 0
    assert jaxsink.claims["NB1"]["measures"][0]["values"] == [1.25, 1.26, 1.27]


# The other commands ---------------------------------------------------------------------------------------------
def test_claims_are_listed_with_predictions_and_controls(jaxsink: Any) -> None:
    result = jaxsink("claims", "BB1")
    assert jaxsink.code(result) == 0
    assert "One layer solves Bigram-Backcopy" in result.stdout
    assert "backcopy excess risk at step 1200 (nats): < 0.05" in result.stdout
    assert "backcopy excess risk at step 1000 (nats): < 0.02" in result.stdout
    assert "the same network with its attention cut" in result.stdout
    assert "BB11" not in result.stdout
    everything = jaxsink("claims", "--claims", "number_claims").stdout
    assert all(name in everything for name in ("BB11", "RP3", "NA1"))


def test_evidence_is_listed_and_pruned(jaxsink: Any) -> None:
    assert "0 runs" in jaxsink("evidence", "list").stdout
    assert jaxsink.code(jaxsink.verify()) == 0
    (jaxsink.folder / "runs" / "0123456789abcdef" / "01234567.partial").mkdir(parents=True)
    listed = jaxsink("evidence", "list")
    assert jaxsink.code(listed) == 0
    assert "10 runs" in listed.stdout
    assert all(f"number {name}" in listed.stdout for name in ("left", "right", "other"))
    before = jaxsink.runs
    assert "1 of 10 runs" in jaxsink("evidence", "prune").stdout
    assert "10 of 10 runs" in jaxsink("evidence", "prune", "--all").stdout
    assert jaxsink.runs == before
    assert jaxsink.code(jaxsink("evidence", "prune", "--yes")) == 0
    assert jaxsink.runs == [""] * 9
    assert jaxsink.code(jaxsink("evidence", "prune", "--all", "--yes")) == 0
    assert jaxsink.runs == []


def test_long_paths_are_printed_whole(jaxsink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the console of everybody
    monkeypatch.chdir(jaxsink.folder)
    out, runs = "o" * 150, "r" * 150
    assert f"{out}/report.html" in jaxsink("verify", "BB1", "--from-results", "--out", out).stdout
    Path(runs, "0123456789abcdef", "01234567.partial").mkdir(parents=True)
    assert f"{runs}/0123456789abcdef/01234567.partial " in jaxsink("evidence", "prune", "--runs", runs).stdout


def test_diff_has_an_exit_code_for_each_outcome(jaxsink: Any) -> None:
    assert jaxsink.code(jaxsink.verify()) == 0
    first = "out/verify-quick/claims.json"
    same = jaxsink("diff", first, first)
    assert (jaxsink.code(same), same.stdout) == (0, "no verdict and no measure differs\n")
    jaxsink.study.shift = 5.0
    assert jaxsink.code(jaxsink.verify("--force", "--out", "other")) == 0
    other = jaxsink("diff", first, "other/claims.json")
    assert jaxsink.code(other) == 1
    assert "NB1" in other.stdout
    assert "refuted" in other.stdout
    jaxsink.assert_mistake(jaxsink("diff", first, "none.json"), "none.json", "no readable claims.json")
    Path("text.json").write_text("text")
    jaxsink.assert_mistake(jaxsink("diff", "text.json", first), "text.json")
    Path("bare.json").write_text('{"schema": 1, "claims": [{"id": "NA1"}]}')
    jaxsink.assert_mistake(jaxsink("diff", "bare.json", first), "bare.json")


def test_doctor_says_what_is_wrong(jaxsink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # How much memory and disk this machine has is not under test.
    monkeypatch.setattr(doctor, "NEEDED_MEMORY", 0)
    monkeypatch.setattr(doctor, "NEEDED_DISK", 0)
    well = jaxsink("doctor")
    assert jaxsink.code(well) == 0
    assert all(line.startswith("ok ") for line in well.stdout.splitlines())
    assert __version__ in well.stdout
    monkeypatch.setattr(doctor, "NEEDED_MEMORY", 2**60)
    ill = jaxsink("doctor")
    assert jaxsink.code(ill) == 1
    assert [line.split(":")[0] for line in ill.stdout.splitlines() if not line.startswith("ok ")] == ["WRONG memory"]
    assert not Path("runs").exists()


# The console script ---------------------------------------------------------------------------------------------
def script(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`jaxsink` as a process of its own, with this folder's modules at hand."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(HERE.parents[1]), str(folder)])
        return subprocess.run(
            [Path(sys.executable).parent / "jaxsink", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_claim_of_ones_own_on_a_text_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text((HERE / "tiny_claims.py").read_text())
    (tmp_path / "text").write_text("hello world, " * 20)
    words = ("verify", "TINY1", "--claims", "own", "--text", "text", "--triggers", "2", "--seeds", "2", "--strict")
    done = script(tmp_path)(*words)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    out = tmp_path / "out" / "verify-quick"
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    figures = ("TINY1", "dynamics-softmax", "attention_maps-softmax", "value_norms-softmax")
    assert names == {
        "claims.json",
        "report.html",
        *(f"figures/{figure}.{kind}" for figure in figures for kind in ("png", "svg")),
    }
    data = json.loads((out / "claims.json").read_text())
    assert data["command"] == "jaxsink " + " ".join(words)
    assert [(c["id"], c["status"]) for c in data["claims"]] == [("TINY1", "supported")]
    for _, manifest, _ in EvidenceStore(tmp_path / "runs").entries():
        assert manifest is not None
        assert manifest["tokens"] == [*sorted(set("hello world, ")), "<s>"]
        assert manifest["spec"]["task"]["n_triggers"] == 2
        assert manifest["grouped_seeds"] == [manifest["seed"]]


def test_two_processes_hold_no_store_at_once(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path / "runs")
    with store.locked():
        done = script(tmp_path)("evidence", "prune", "--yes")
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"jaxsink: another jaxsink process is working in runs; .*\n", done.stderr)
