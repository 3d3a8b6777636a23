"""`jaxsink verify`: judge claims, write claims.json, figures and report.html."""

from __future__ import annotations

import difflib
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID
from rich.table import Table

from experiments.commands.progress import bar_with_time_left
from experiments.compilation import keep_compiled
from experiments.evidence import EvidenceStore
from experiments.figures import FIGURES
from experiments.publish import claim_output, publish
from experiments.results import Result
from experiments.runner import Reporter, verify
from experiments.studies.checkpoint import loaded
from jaxsink.models import Decoder
from jaxsink.training import TaskConfig, TextChain, TrainConfig
from theory.checkpoint import on_model
from theory.claim import Claim, Spec, Tier

COLOURS = {"supported": "green", "refuted": "red", "inconclusive": "yellow", "check broken": "magenta"}


class ConsoleReporter(Reporter):
    """Verdicts as they come, and a bar with the time left where there is a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = bar_with_time_left(console)
        self.task: TaskID | None = None
        self.total = self.done = 0.0
        self.start = time.monotonic()

    def begin(self, cost: float) -> None:
        self.total, self.start = cost, time.monotonic()
        self.task = self.progress.add_task("", total=cost)

    def working(self, label: str, seeds: Sequence[int]) -> None:
        words = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} of {label}"
        if self.task is not None:
            self.progress.update(self.task, description=escape(words))
        if not self.console.is_terminal:
            left = ""
            if self.done:
                rest = (time.monotonic() - self.start) / self.done * (self.total - self.done)
                left = f", about {rest:.0f} s left"
            self.console.print(f"[{time.monotonic() - self.start:5.0f} s{left}] {words}", markup=False)

    def advance(self, cost: float) -> None:
        self.done += cost
        if self.task is not None:
            self.progress.advance(self.task, cost)

    def verdict(self, result: Result) -> None:
        status, colour = result.verdict.status, COLOURS.get(result.verdict.status, "dim")
        self.console.print(
            f"[bold]{escape(result.claim.id):6}[/] [{colour}]{status:13}[/] {escape(result.claim.statement)}"
        )


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line, checked."""

    claims: Sequence[Claim]
    tier: Tier
    seeds: Sequence[int]
    out: Path
    runs: Path
    strict: bool
    from_results: bool
    force: bool
    command: str


def on_text(claims: Sequence[Claim], text: Path, triggers: int) -> list[Claim]:
    """The claims with the bigram chain of a text file in place of Shakespeare's.

    Raises:
      ValueError: the text makes no chain, or not one with that many triggers.
    """

    def moved(spec: TrainConfig) -> TrainConfig:
        return replace(spec, task=replace(spec.task, chain=TextChain(text), n_triggers=triggers))

    try:
        TaskConfig(chain=TextChain(text), n_triggers=triggers).build()
    except ValueError as error:
        raise ValueError(f"--text {text} with --triggers {triggers} makes no task: {error}") from error
    return _retrained(claims, moved)


def in_bfloat16(claims: Sequence[Claim]) -> list[Claim]:
    """The claims with their training runs computed in bfloat16 (see `TransformerConfig.compute_dtype`)."""
    return _retrained(claims, lambda spec: replace(spec, model=replace(spec.model, compute_dtype="bfloat16")))


# The checkpoints that claims about pretrained models are about unless others are named.
DECODER, ENCODER = "smollm2-135m", "minilm-l6"


def on_checkpoint(claims: Sequence[Claim], default: str, given: str) -> list[Claim]:
    """The claims with a checkpoint of the user's in the place of the decoder or of the encoder that they are about.

    Args:
      claims: of the registry. default: `DECODER` or `ENCODER`. given: a name of the catalogue, a folder or a file.

    Raises:
      ValueError: it cannot be loaded, is of the other kind or has no tokenizer, or no claim is about the default.
    """
    option = "--decoder" if default == DECODER else "--encoder"
    found = loaded(given)
    if isinstance(found.model, Decoder) != (default == DECODER):
        raise ValueError(f"{option} {given} is the other kind of model; give it by the other of --decoder, --encoder.")
    if found.tokenizer is None:
        raise ValueError(
            f"{option} {given} has no tokenizer that can be read, so it reads no text; add tokenizer.json."
        )
    moved = _rearmed(claims, lambda spec: on_model(spec, default, given))
    if moved == list(claims):
        raise ValueError(
            f"{option} was given, but none of these claims is about a pretrained {option[2:]}; add WV or LM."
        )
    return moved


def _retrained(claims: Sequence[Claim], changed: Callable[[TrainConfig], TrainConfig]) -> list[Claim]:
    return _rearmed(claims, lambda spec: changed(spec) if isinstance(spec, TrainConfig) else spec)


def _rearmed(claims: Sequence[Claim], changed: Callable[[Spec], Spec]) -> list[Claim]:
    def arms(given: Mapping[str, Spec]) -> dict[str, Spec]:
        return {arm: changed(spec) for arm, spec in given.items()}

    return [replace(c, evidence={tier: arms(given) for tier, given in c.evidence.items()}) for c in claims]


def command_line(words: Sequence[str]) -> str:
    """The command that makes this report again."""
    return shlex.join(["jaxsink", *words])


def _table(results: Sequence[Result]) -> Table:
    table = Table(title="Verdicts", title_justify="left")
    for name in ("claim", "verdict", "expected", "measure", "predicted", "measured [95 %]", "control"):
        table.add_column(name)
    for result in results:
        verdict, first = result.verdict, True
        colour = COLOURS.get(verdict.status, "dim")
        control = (
            f"{verdict.control_status}, as it must" if verdict.control_status == "refuted" else verdict.control_status
        )
        for m in verdict.measures or (None,):
            head = (
                (escape(result.claim.id), f"[{colour}]{verdict.status}[/]", result.expected) if first else ("", "", "")
            )
            if m is None:
                table.add_row(*head, escape(verdict.note), "", "", "")
            else:
                interval = "" if m.interval is None else f" [{m.interval[0]:.3g}, {m.interval[1]:.3g}]"
                mark = {True: "", False: " !", None: " ?"}[m.inside]
                table.add_row(
                    *head,
                    escape(m.name),
                    escape(m.predicted),
                    escape(f"{m.mean:.3g}{interval}{mark}"),
                    control if first else "",
                )
            first = False
    return table


def run(request: Request, console: Console) -> int:
    """Do what was asked.

    Returns:
      0 if every claim was judged; 1 if one could not be, or if a verdict differs from `expected` under --strict.

    Raises:
      ValueError: a claim wants a figure that does not exist, or --out or --runs cannot be used.
    """
    start = time.monotonic()
    for claim in request.claims:
        if claim.figure not in FIGURES:
            nearest = difflib.get_close_matches(claim.figure, FIGURES, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"claim {claim.id} wants the figure {claim.figure!r}; the nearest there is is {nearest!r}."
            )
    keep_compiled()
    claim_output(request.out)
    store, reporter = EvidenceStore(request.runs), ConsoleReporter(console)
    # Judging what is stored writes nothing into the store, which may then be an archive.
    with nullcontext() if request.from_results else store.locked(), reporter.progress:
        results = verify(
            request.claims,
            request.tier,
            request.seeds,
            store,
            reporter,
            from_results=request.from_results,
            force=request.force,
        )
    report = publish(results, request.out, request.tier, request.command, time.monotonic() - start)
    console.print(_table(results))
    console.print(f"{time.monotonic() - start:.0f} s; the report is {report}", markup=False, soft_wrap=True)
    surprising = [r.claim.id for r in results if r.verdict.status not in (r.expected, "not run")]
    if surprising:
        console.print(f"differs from what is expected: {', '.join(surprising)}", markup=False)
    failed = [r.claim.id for r in results if r.failed]
    if failed:
        console.print(f"could not be judged: {', '.join(failed)}", markup=False)
    return 1 if failed or (request.strict and surprising) else 0
