"""`jaxsink variants`: what it prints, and that the support it finds by tracing is what calling finds."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from experiments.commands import variants
from experiments.commands.variants import Sizes, Support, show, support
from jaxsink.attention import VARIANTS, Entry, Softmax, attend

SOME = ("softmax", "sparsemax", "g2-value-gate")


def printed(names: list[str], width: int, capsys: pytest.CaptureFixture[str]) -> str:
    show(names, Console(width=width))
    return capsys.readouterr().out


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small catalogue, since tracing all of it takes a while."""
    monkeypatch.setattr(variants, "VARIANTS", {name: VARIANTS[name] for name in SOME})


@pytest.mark.parametrize("name", VARIANTS)
def test_the_reference_takes_all_with_all_derivatives(name: str) -> None:
    assert support(VARIANTS[name].variant, "reference") == Support(None, reverse=True, forward=True)


@pytest.mark.parametrize("name", SOME)
def test_what_tracing_finds_calling_finds(name: str) -> None:
    variant = VARIANTS[name].variant
    found = support(variant, "chunked")
    a = Sizes(1, 4, 2, 4).arguments(variant, jax.random.key(0))

    def run(q: jax.Array) -> jax.Array:
        return attend(q, a.k, a.v, variant, params=a.params, x=a.x, backend="chunked")

    if name == "sparsemax":
        assert found.refusal is not None
        with pytest.raises(ValueError, match="needs whole rows") as error:
            run(a.q)
        assert "needs whole rows" in found.refusal
        assert "chunked" in str(error.value)
        return
    assert found == Support(None, reverse=True, forward=False)
    assert jnp.all(jnp.isfinite(jax.grad(lambda q: jnp.sum(run(q)))(a.q)))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(run, (a.q,), (a.q,))


def test_words_of_support() -> None:
    assert Support("why").words == "-"
    assert Support(None).words == "values only"
    assert Support(None, reverse=True).words == "reverse"
    assert Support(None, reverse=True, forward=True).words == "reverse, forward"


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("width", [80, 160])
def test_the_table_names_each_variant_and_fits(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed([], width, capsys)
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    for name in SOME:
        (row,) = (line for line in lines if line.startswith(f"│ {name} "))
        chunked = row.split("│")[5]
        assert chunked.strip() == ("-" if name == "sparsemax" else "reverse")
    assert "(cpu, gpu, tpu)" in out
    assert "Not on cpu: cudnn (gpu), mosaic (gpu), splash (tpu)." in " ".join(out.split())
    assert "S online," in out


def test_a_name_brings_the_full_entry(jaxsink: Any) -> None:
    result = jaxsink("variants", "g2-value-gate", "sparsemax")
    assert jaxsink.code(result) == 0
    entry = VARIANTS["g2-value-gate"]
    for part in (entry.equation, entry.source, entry.parameters, "S, online", "reads the keys as the tokens of x"):
        assert part in result.stdout
    assert "derivatives: reverse, forward" in result.stdout
    assert "needs whole rows" in result.stdout


def test_markup_in_an_entry_is_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(variants, "VARIANTS", {"[bold]x": Entry(Softmax(), "[red]source[/]", "w = [N]")})
    assert "w = [N]" in printed([], 160, capsys)
    full = printed(["[bold]x"], 160, capsys)
    assert "[bold]x" in full
    assert "[red]source[/]" in full


def test_an_unknown_name_brings_the_nearest(jaxsink: Any) -> None:
    result = jaxsink("variants", "softmax", "sinklogit")
    jaxsink.assert_mistake(result, "there is no variant 'sinklogit'; the nearest is 'sink-logit'", "jaxsink variants")
