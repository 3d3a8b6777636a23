"""`jaxsink scan`: one instrumented pass over samples of text; scan.json, maps.npz, report.html."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from experiments.commands.progress import bar_with_time_left
from experiments.commands.scan_document import SCHEMA, document
from experiments.commands.scan_report import write_report
from experiments.commands.scan_samples import Ends, batches, ends, of_domain, of_file
from experiments.commands.scan_zeroing import Zeroing, measure_of
from experiments.compilation import keep_compiled
from experiments.evidence import write_json
from experiments.figures.text import number
from experiments.publish import claim_output
from jaxsink.checkpoints import Loaded, load
from jaxsink.files import whole
from jaxsink.models import Encoder
from jaxsink.scanning import Scan, attention_maps, finalise_scan, init_scan, readings, update_scan

# Samples in one pass, and at most this many of each domain for the zeroing of heads.
BATCH = 4
# Tokens of a sample unless told otherwise, and of that whose attention maps are kept.
TOKENS = 512


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line.

    Attributes:
      model: as `jaxsink.checkpoints.load` takes it.
      text: a file to read instead of domains. domains: None is prose, or random tokens without a tokenizer.
      samples: of each domain. max_tokens: of a sample; None is `TOKENS`, or what the model takes.
      bos: "default", "none", or the id of a token.
      zero_heads: measure what zeroing each head costs.
      out: folder. command: what makes this scan again.
    """

    model: str
    text: Path | None
    domains: Sequence[str] | None
    samples: int
    max_tokens: int | None
    bos: str
    zero_heads: bool
    out: Path
    command: str


def _is_scan(folder: Path) -> bool:
    try:
        found = json.loads((folder / "scan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"schema", "model", "layers", "heads"} <= set(found)


def run(request: Request, console: Console) -> int:
    """Do what was asked.

    Returns:
      0.

    Raises:
      ValueError: a mistake in the request; nothing is written then.
    """
    start = time.monotonic()
    if request.text is not None and request.domains is not None:
        raise ValueError("--text and --domains both say what to read; give one of them.")
    keep_compiled()
    console.print(f"loading {request.model}", markup=False)
    loaded = load(request.model)
    length = _length(request, loaded)
    around = ends(loaded.tokenizer, request.bos, loaded.model.config.vocab_size)
    samples = _samples(request, loaded, around, length)
    claim_output(request.out, _is_scan)
    with bar_with_time_left(console) as progress:
        everything, by_domain = _scanned(loaded, samples, progress)
        costs = _zeroed(loaded, samples, progress, console) if request.zero_heads else None
        data = {
            "schema": SCHEMA,
            "model": loaded.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": request.command,
            "bos": request.bos,
            "ends": {"before": list(around.before), "after": list(around.after)},
            "max_tokens": length,
            "seconds": round(time.monotonic() - start, 1),
            **document(loaded, everything, by_domain, costs, measure_of(loaded.model)),
        }
        # First, so that a fault of a figure takes no number with it, and a folder half written is known as a scan's.
        write_json(request.out / "scan.json", data)
        first = next(iter(samples.values()))[0][:TOKENS]
        words, received = _words(loaded, first), everything.means.received
        maps = _kept_maps(loaded, first, words, received, request.out / "maps.npz", progress)
    report = write_report(data, received, maps, words, request.out / "report.html")
    for name, domain in data["domains"].items():
        masses = (
            f"mean weight on the sink {number(domain['sink_mass'])}, on position 0 {number(domain['mass_on_first'])}"
        )
        console.print(f"{name}: {masses}", markup=False)
    console.print(f"{time.monotonic() - start:.0f} s; the report is {report}", markup=False, soft_wrap=True)
    return 0


def _length(request: Request, loaded: Loaded) -> int:
    """Tokens of a sample."""
    longest = loaded.model.max_length
    if request.max_tokens is None:
        return min(TOKENS, longest)
    # A decoder computes positions beyond those that it was made for.
    if isinstance(loaded.model, Encoder) and request.max_tokens > longest:
        raise ValueError(
            f"--max-tokens {request.max_tokens} is more than this model takes, which is at most {longest}."
        )
    return request.max_tokens


def _samples(request: Request, loaded: Loaded, around: Ends, length: int) -> dict[str, list[NDArray[np.int32]]]:
    """Samples by domain; those of a file under its name."""
    if request.text is not None:
        return {request.text.name: of_file(request.text, loaded.tokenizer, around, length, request.samples)}
    domains = request.domains or (["random"] if loaded.tokenizer is None else ["prose"])
    size = loaded.model.config.vocab_size
    return {name: of_domain(name, loaded.tokenizer, around, size, length, request.samples) for name in domains}


def _scanned(
    loaded: Loaded, samples: Mapping[str, list[NDArray[np.int32]]], progress: Progress
) -> tuple[Scan, dict[str, Scan]]:
    """The scan of all samples, and that of each domain."""
    each = {name: batches(of, BATCH) for name, of in samples.items()}
    bar = progress.add_task("reading", total=sum(map(len, each.values())))
    everything, scans = init_scan(), {}
    for name, parts in each.items():
        progress.update(bar, description=f"reading {escape(name)}")
        state = init_scan()
        for tokens, real in parts:
            found = readings(loaded.model, loaded.params, jnp.asarray(tokens), _inputs(real))
            state, everything = update_scan(state, found), update_scan(everything, found)
            progress.advance(bar)
        scans[name] = finalise_scan(state)
    return finalise_scan(everything), scans


def _inputs(real: NDArray[np.bool_]) -> dict[str, Any]:
    return {} if real.all() else {"valid": jnp.asarray(real)}


def _zeroed(
    loaded: Loaded, samples: Mapping[str, list[NDArray[np.int32]]], progress: Progress, console: Console
) -> dict[str, NDArray[np.float64]]:
    """[L, N] by domain, what zeroing each head costs."""
    costs: dict[str, NDArray[np.float64]] = {}
    layers = loaded.model.config.n_layers
    for name, of in samples.items():
        # At most one batch: all heads of a layer are zeroed at once.
        zeroing = Zeroing(loaded, *batches(of[:BATCH], BATCH)[0])
        if not costs:
            seconds = zeroing.estimate() * len(samples)
            heads = layers * loaded.model.config.n_heads
            words = f"zeroing {heads} heads on {len(samples)} domain{'s' * (len(samples) > 1)}"
            console.print(f"{words} takes about {seconds:.0f} s", markup=False)
        bar = progress.add_task(f"zeroing heads, {escape(name)}", total=layers)
        found = []
        for cost in zeroing.costs():
            found.append(cost)
            # A layer costs as many blocks as follow it, so that the time left is that of the blocks left.
            progress.advance(bar)
        costs[name] = np.stack(found)
    return costs


def _words(loaded: Loaded, sample: NDArray[np.int32]) -> tuple[str, ...]:
    """Token strings, or ids without a tokenizer."""
    return tuple(map(str, sample)) if loaded.tokenizer is None else loaded.tokenizer.tokens(sample)


def _kept_maps(
    loaded: Loaded,
    sample: NDArray[np.int32],
    words: Sequence[str],
    received: NDArray[np.float64],
    path: Path,
    progress: Progress,
) -> NDArray[np.float16]:
    """Write maps.npz; return the attention maps [L, N, T, T].

    The maps go to the file layer by layer, compressed as fast as possible: half of a causal map are zeros.
    """
    layers, heads, length = loaded.model.config.n_layers, loaded.model.config.n_heads, len(sample)
    bar = progress.add_task("attention maps", total=layers)
    maps = np.empty((layers, heads, length, length), np.float16)
    with whole(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("maps.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(maps))
            for layer, weights in enumerate(attention_maps(loaded.model, loaded.params, jnp.asarray(sample[None]))):
                maps[layer] = weights[0]
                file.write(maps[layer].tobytes())
                progress.advance(bar)
        for name, array in (
            ("tokens", np.array(words)),
            ("token_ids", sample),
            ("received", received.astype(np.float32)),
        ):
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            archive.writestr(f"{name}.npy", content.getvalue())
    return maps
