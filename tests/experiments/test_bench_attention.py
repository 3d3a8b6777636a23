"""`jaxsink bench attention`: which cases it measures, how, and what it prints."""

import re
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import pytest
from jax import Array

from experiments.commands import bench_attention as command
from experiments.commands.bench_attention import DEFAULT, MIB, STREAMED, Case, Failed, Idle, Measured, cases, measure
from experiments.commands.variants import Sizes, support
from experiments.environment import environment
from jaxsink.attention import BACKENDS, VARIANTS, attend

HERE = [name for name, row in BACKENDS.items() if "cpu" in row.platforms]
TINY = Sizes(batch=1, length=8, heads=2, head_size=4)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Case], Any]], list[Case]]:
    """Put a function in the place of other processes; the cases that it was asked for come in the list."""

    def replaced(answer: Callable[[Case], Any]) -> list[Case]:
        asked: list[Case] = []

        def isolated(case: Case | None) -> Any:
            if case is None:
                return Idle(environment(), 100 * MIB)
            asked.append(case)
            return answer(case)

        monkeypatch.setattr(command, "isolated", isolated)
        return asked

    return replaced


def linear(case: Case) -> Measured:
    """Seconds 1 for the reference, 1.5 for chunked, 0.5 for JAX; memory by the length."""
    seconds = {"reference": 1.0, "chunked": 1.5}.get(case.backend, 0.5)
    return Measured(seconds, case.sizes.length * MIB, (100 + 2 * case.sizes.length) * MIB, 0.00123)


def cells(out: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]


# Cases ----------------------------------------------------------------------------------------------------------
def test_the_default_has_one_of_each_class_that_is_streamed() -> None:
    one_of_each = {entry.variant.properties.streaming: entry.variant for entry in VARIANTS.values()}
    streamed = {kind for kind, variant in one_of_each.items() if not support(variant, STREAMED).refusal}
    chosen = [VARIANTS[name].variant.properties.streaming for name in DEFAULT]
    assert set(chosen) == streamed
    assert len(chosen) == len(streamed)


def test_cases_that_are_compared_follow_each_other() -> None:
    found = [(c.variant, c.backward, c.backend) for c in cases(["relu", "softmax"], [], TINY, None)]
    relu = [("relu", backward, backend) for backward in (False, True) for backend in HERE]
    softmax = [("softmax", backward, backend) for backward in (False, True) for backend in [*HERE, "jax.nn"]]
    assert found == relu + softmax
    assert {c.backend for c in cases(["relu"], [], TINY, None, "gpu")} == set(BACKENDS) - {"splash"}


def test_long_cases_come_last_and_once() -> None:
    found = cases(["relu"], ["reference"], TINY, 64)
    assert [(c.backend, c.sizes.length) for c in found] == [("reference", 8)] * 2 + [
        (STREAMED, length) for _ in range(2) for length in (16, 32, 64)
    ]
    on_gpu = cases(["relu"], [], TINY, 64, "gpu")
    assert {c.backend for c in on_gpu if c.sizes != TINY} == {"cudnn", "mosaic", STREAMED}
    assert len(cases(["relu"], [STREAMED], TINY, 32)) == 2 * 3  # a quarter of 32 is there already


# Measuring ------------------------------------------------------------------------------------------------------
# jax.nn.dot_product_attention promotes bfloat16 by itself, which tests forbid.
@pytest.mark.parametrize(("backend", "dtype"), [*((name, "bfloat16") for name in HERE), ("jax.nn", "float32")])
@pytest.mark.parametrize("backward", [False, True])
def test_a_case_is_measured(backend: str, dtype: str, backward: bool) -> None:
    found = measure(Case("softmax", backend, backward, replace(TINY, dtype=dtype)))
    assert found.seconds > 0.0
    assert found.peak > 10 * MIB
    least, most = (1e-4, 1e-2) if dtype == "bfloat16" else (0.0, 1e-6)  # which has 8 bits
    assert least <= found.error < most


def test_a_wrong_output_and_a_wrong_gradient_show_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(of_q: Callable[[Array], Array]) -> Callable[..., Array]:
        def changed(q: Array, *rest: Any, backend: str, **options: Any) -> Array:
            return attend(q if backend == "reference" else of_q(q), *rest, backend=backend, **options)

        return changed

    monkeypatch.setattr(command, "attend", wrong(jax.lax.stop_gradient))
    assert measure(Case("softmax", STREAMED, False, TINY)).error < 1e-6
    assert measure(Case("softmax", STREAMED, True, TINY)).error == pytest.approx(1.0)
    monkeypatch.setattr(command, "attend", wrong(lambda q: -q))
    assert measure(Case("softmax", STREAMED, False, TINY)).error > 0.1


@pytest.mark.parametrize("want", ["received", "on_keys"])
def test_what_is_wanted_is_measured(want: str) -> None:
    # Over few tokens rounding may come out alike: on some processors it does for 16.
    assert 0.0 < measure(Case("relu", STREAMED, False, replace(TINY, length=128), want)).error < 1e-6


def test_a_variant_that_reads_x_is_measured() -> None:
    assert measure(Case("g2-value-gate", STREAMED, True, TINY)).seconds > 0.0


def test_temporaries_of_the_reference_hold_scores_and_those_of_chunked_do_not() -> None:
    sizes = Sizes(batch=1, length=1024, heads=2, head_size=4)
    scores = 4 * sizes.heads * sizes.length**2
    taken = {b: measure(Case("softmax", b, True, sizes)).temporary for b in ("reference", STREAMED)}
    assert taken[STREAMED] is not None
    assert taken["reference"] is not None
    assert taken["reference"] >= scores
    # Two blocks of 256 x 512 scores for each head, a quarter of all scores, and the outputs.
    assert taken[STREAMED] < scores


def test_a_process_of_its_own_does_not_count_the_memory_of_this_one() -> None:
    ballast = b"\1" * (800 * MIB)
    idle = command.isolated(None)
    assert isinstance(idle, Idle)
    assert 10 * MIB < idle.peak < len(ballast)
    assert idle.environment["platform"] == environment()["platform"]


def test_a_refusal_comes_back_from_the_process() -> None:
    found = command.isolated(Case("sparsemax", STREAMED, False, TINY))
    assert isinstance(found, Failed)
    assert found.refused
    assert "needs whole rows" in found.reason
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# Printing -------------------------------------------------------------------------------------------------------
def test_the_table_has_ratios_and_memory(jaxsink: Any, pretend: Any) -> None:
    asked = pretend(linear)
    result = jaxsink("bench", "attention", "--length", "8", "--variants", "softmax,relu", "--long", "64")
    assert jaxsink.code(result) == 0
    rows = cells(result.stdout)
    assert len(rows) == len(asked) == 2 * 5 + 2 * 6
    assert rows[0] == [
        "softmax",
        "S",
        "forward",
        "chunked",
        "8",
        "1.5",
        "2.18e-08",
        "1.50",
        "3.00",
        "8.0",
        "16",
        "1.2e-03",
    ]
    assert rows[1] == [
        "softmax",
        "S",
        "forward",
        "reference",
        "8",
        "1",
        "3.28e-08",
        "1.00",
        "2.00",
        "8.0",
        "16",
        "1.2e-03",
    ]
    assert rows[2] == [
        "softmax",
        "S",
        "forward",
        "jax.nn",
        "8",
        "0.5",
        "6.55e-08",
        "0.50",
        "1.00",
        "8.0",
        "16",
        "1.2e-03",
    ]
    # JAX has softmax alone, with which every variant is compared.
    assert rows[6] == [
        "relu",
        "E",
        "forward",
        "chunked",
        "8",
        "1.5",
        "2.18e-08",
        "1.50",
        "3.00",
        "8.0",
        "16",
        "1.2e-03",
    ]
    assert "less the 100 MiB of one that does nothing" in " ".join(result.stdout.split())
    assert f"jax {environment()['jax']}" in result.stdout
    growing = "relu, forward + backward, chunked, T 32 to 64: peak 2.00 and temporaries 2.00 times"
    assert growing in result.stdout
    # Progress where there is no terminal: a line for each case, with the time left.
    assert len(re.findall(r"^\[ +\d+ s(?:, about \d+ s left)?\] ", result.stdout, re.MULTILINE)) == len(asked)


def test_what_is_wanted_beside_the_output_is_timed_in_the_forward_pass(jaxsink: Any, pretend: Any) -> None:
    asked = pretend(linear)
    result = jaxsink("bench", "attention", "--length", "8", "--variants", "softmax", "--want", "received")
    assert jaxsink.code(result) == 0
    assert [(c.backend, c.backward, c.want) for c in asked] == [
        ("chunked", False, "received"),
        ("reference", False, "received"),
        ("jax.nn", False, ""),  # which has the output alone
    ]
    assert cells(result.stdout)[0][:4] == ["softmax, received", "S", "forward", "chunked"]
    assert cells(result.stdout)[0][7:9] == ["1.50", "3.00"]


def test_what_is_refused_is_asked_for_once_and_said_once(jaxsink: Any, pretend: Any) -> None:
    asked = pretend(lambda case: Failed("[why] not", refused=True) if case.backend == STREAMED else linear(case))
    result = jaxsink("bench", "attention", "--length", "8", "--variants", "relu", "--long", "64")
    assert jaxsink.code(result) == 0
    assert [case.backend for case in asked] == [STREAMED, "reference", "reference"]
    assert result.stdout.count("relu, forward, chunked, T 8: [why] not\n") == 1
    assert cells(result.stdout)[0][5:] == ["-"] * 7


def test_a_killed_process_is_a_line_and_the_rest_goes_on(jaxsink: Any, pretend: Any) -> None:
    asked = pretend(lambda case: Failed("killed") if case.backend == "reference" else linear(case))
    result = jaxsink("bench", "attention", "--length", "8", "--variants", "relu")
    assert jaxsink.code(result) == 0
    assert len(asked) == 4
    assert result.stdout.count(": killed\n") == 2


def test_ctrl_c_prints_what_there_is(jaxsink: Any, pretend: Any) -> None:
    def interrupted(case: Case) -> Measured:
        if case.backward:
            raise KeyboardInterrupt
        return linear(case)

    pretend(interrupted)
    result = jaxsink("bench", "attention", "--length", "8", "--variants", "relu")
    assert jaxsink.code(result) == 130
    assert len(cells(result.stdout)) == 2
    assert "stopped after 2 of 4 cases" in result.stdout


def test_unknown_names_bring_the_nearest(jaxsink: Any, pretend: Any) -> None:
    asked = pretend(linear)
    variant = jaxsink("bench", "attention", "--variants", "softmx")
    jaxsink.assert_mistake(variant, "there is no variant 'softmx'; the nearest is 'softmax'", "jaxsink variants")
    backend = jaxsink("bench", "attention", "--backend", "reference,chunk")
    jaxsink.assert_mistake(backend, "there is no backend 'chunk'; the nearest is 'chunked'", "jaxsink variants")
    entry = jaxsink("bench", "attention", "--want", "recieved")
    jaxsink.assert_mistake(entry, "there is no entry of Aux 'recieved'; the nearest is 'received'", "help(")
    assert asked == []
