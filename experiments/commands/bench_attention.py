"""`jaxsink bench attention`: seconds and memory of the backends, each case in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.commands.bench import REPEATS, median_seconds
from experiments.commands.progress import bar_with_time_left
from experiments.commands.variants import Arguments, Sizes, chosen, nearest
from experiments.environment import environment
from jaxsink.attention import BACKENDS, VARIANTS, Aux, Causal, attend, attend_with_aux

# One of each streaming class that the chunked backend takes.
DEFAULT = ("softmax", "sink-logit", "relu", "softpick", "elastic", "stick-breaking")
PEER = "reference"
STREAMED = "chunked"
JAX = "jax.nn"  # jax.nn.dot_product_attention, which has softmax alone; on a GPU in 16 bits that is cuDNN's
MIB = 2**20
EXACT = 2048  # tokens of one sequence whose error is measured; whole rows of scores in float32 take memory
STOPPED = 130  # what a shell reports for a program that Ctrl-C ended


@dataclass(frozen=True)
class Case:
    """One measurement: of the forward pass, or of it and the gradients of all arrays."""

    variant: str
    backend: str
    backward: bool
    sizes: Sizes
    want: str = ""  # an entry of `Aux` that is returned beside the output; on_keys is of key 0

    @property
    def passes(self) -> str:
        """What is measured, in words."""
        return "forward + backward" if self.backward else "forward"

    @property
    def what(self) -> str:
        """What is computed, in words."""
        return f"{self.variant}, {self.want}" if self.want else self.variant

    @property
    def words(self) -> str:
        """The whole case in words."""
        return f"{self.what}, {self.passes}, {self.backend}, T {self.sizes.length}"

    @property
    def cost(self) -> float:
        """About how many seconds it takes on two cores: a start, and REPEATS + 1 calls."""
        products = self.sizes.batch * self.sizes.heads * self.sizes.head_size * self.sizes.length**2
        call = products * (4e-11 if self.backend == STREAMED else 4e-10) * (3.0 if self.backward else 1.0)
        return 4.0 + (REPEATS + 1) * call

    @property
    def flops(self) -> float:
        """Of the two products of a causal forward pass, and the five of its gradients, over the keys that are seen."""
        size = self.sizes
        one = 2 * size.batch * size.heads * size.head_size * size.length**2 / 2
        return one * (7 if self.backward else 2)

    def to(self, backend: str) -> Case:
        """The same of another backend; of JAX's own it is softmax, whatever the variant."""
        if backend == JAX:
            return replace(self, backend=JAX, variant="softmax", want="")
        return replace(self, backend=backend)


class Measured(NamedTuple):
    """What came out.

    Attributes:
        seconds: median of a call.
        temporary: bytes of XLA's temporary buffers, if it says so.
        peak: bytes at the peak.
        error: largest of |found - exact| / |exact|, of the output or a gradient, with exact by `reference` in float32.
    """

    seconds: float
    temporary: int | None
    peak: int
    error: float


class Idle(NamedTuple):
    """A process that has imported everything and computed nothing: where it ran, and bytes at its peak."""

    environment: Mapping[str, Any]
    peak: int


@dataclass(frozen=True)
class Failed:
    """Why there is no number; `refused` if no other sizes and no other pass would help."""

    reason: str
    refused: bool = False


Rows = dict[Case, Measured | Failed]


# In a process of its own ----------------------------------------------------------------------------------------
def _peak() -> int:
    """Bytes at the peak of this process: of the device if it counts them, else of main memory."""
    stats = jax.devices()[0].memory_stats()
    if stats is not None:
        return int(stats["peak_bytes_in_use"])
    if sys.platform == "linux":
        # ru_maxrss would not do: Linux starts it at the size of the process that started this one.
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return 1024 * int(found[1])
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def idle() -> Idle:
    """Measure this process as it is."""
    return Idle(environment(), _peak())


def measure(case: Case) -> Measured:
    """Measure one case in this process.

    Raises:
        ValueError: the backend does not take it.
    """
    work = _work(case)
    arguments = _arguments(case.variant, case.sizes)
    compiled = jax.jit(work).lower(arguments).compile()
    seconds = median_seconds(lambda: compiled(arguments))
    analysis = compiled.memory_analysis()
    temporary = None if analysis is None else int(analysis.temp_size_in_bytes)
    return Measured(seconds, temporary, _peak(), _error(case))  # the error last: it takes memory of its own


def _arguments(variant: str, sizes: Sizes) -> Arguments:
    return jax.jit(lambda key: sizes.arguments(VARIANTS[variant].variant, key))(jax.random.key(0))


def _work(case: Case) -> Callable[[Arguments], Any]:
    variant = VARIANTS[case.variant].variant

    def forward(a: Arguments) -> tuple[Array, ...]:
        if case.backend == JAX:
            fused = jax.default_backend() == "gpu" and case.sizes.dtype != "float32"
            peer = partial(jax.nn.dot_product_attention, implementation="cudnn" if fused else None)
            return (peer(a.q, a.k, a.v, is_causal=True),)
        given: dict[str, Any] = {"params": a.params, "x": a.x, "mask": Causal(), "backend": case.backend}
        if not case.want:
            return (attend(a.q, a.k, a.v, variant, **given),)
        keys = (0,) if case.want == "on_keys" else None
        out, aux = attend_with_aux(a.q, a.k, a.v, variant, want=(case.want,), keys=keys, **given)
        return out, getattr(aux, case.want)

    def backward(a: Arguments) -> tuple[tuple[Array, ...], Arguments]:
        # The output is its own cotangent, which XLA cannot simplify as it could a constant one.
        def loss(a: Arguments) -> tuple[Array, tuple[Array, ...]]:
            found = forward(a)
            return 0.5 * jnp.sum(jnp.square(found[0].astype(jnp.float32))), found

        gradients, found = jax.grad(loss, has_aux=True)(a)
        return found, gradients

    return backward if case.backward else forward


def _error(case: Case) -> float:
    """Measured.error, of the first `EXACT` tokens of a sequence."""
    arguments = _arguments(case.variant, replace(case.sizes, batch=1, length=min(case.sizes.length, EXACT)))
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), arguments)
    found = jax.jit(_work(case))(arguments)
    with jax.default_matmul_precision("highest"):  # a GPU rounds factors to 10 bits otherwise
        exact = jax.jit(_work(case.to(PEER)))(wide)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
    norms = [
        (float(jnp.linalg.norm((a.astype(b.dtype) - b).ravel())), float(jnp.linalg.norm(b.ravel()))) for a, b in pairs
    ]
    return max(apart / size for apart, size in norms if size > 0.0)


def _answer(pipe: Connection, case: Case | None) -> None:
    try:
        pipe.send(idle() if case is None else measure(case))
    except ValueError as error:
        pipe.send(Failed(str(error), refused=True))
    except jax.errors.JaxRuntimeError as error:  # mostly too little memory of the device
        pipe.send(Failed(str(error).splitlines()[0]))


@contextmanager
def _deaf() -> Iterator[None]:
    """A process that is started now does not hear Ctrl-C: it would only print where it was."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def isolated(case: Case | None) -> Any:
    """What `measure`, or `idle` for None, gives in a fresh process, or how that failed."""
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(its, case), daemon=True)
    with _deaf():
        process.start()
    its.close()
    try:
        return mine.recv()
    except EOFError:
        process.join()
        return Failed(f"its process ended with code {process.exitcode}; -9 mostly means too little memory")
    finally:
        process.kill()
        process.join()


# All cases ------------------------------------------------------------------------------------------------------
def cases(
    variants: Sequence[str],
    backends: Sequence[str],
    sizes: Sizes,
    long: int | None,
    platform: str = "cpu",
    want: str = "",
) -> list[Case]:
    """All cases, on the backends of the platform if none is named.

    Those that are compared with each other follow each other, as load comes and goes.

    Raises:
        ValueError: a variant or backend does not exist; the nearest is named.
    """
    for name in backends:
        if name not in BACKENDS:
            raise nearest("backend", name, BACKENDS, "jaxsink variants")
    if want and want not in Aux._fields:
        raise nearest("entry of Aux", want, Aux._fields, "help(jaxsink.attention.Aux)")
    found = []
    usable = [name for name, row in BACKENDS.items() if platform in row.platforms]
    passes = (False,) if want else (False, True)  # what is wanted is looked at, not trained
    streamed = [name for name in backends or usable if not BACKENDS[name].has_arrays] or [STREAMED]
    for variant in chosen(variants or DEFAULT):
        peers = [*(backends or usable), *([JAX] if variant == "softmax" else [])]
        found += [Case(variant, peer, backward, sizes, want) for backward in passes for peer in peers]
        lengths = () if long is None else (long // 4, long // 2, long)
        for backward, backend in product(passes, streamed):
            found += [Case(variant, backend, backward, replace(sizes, length=length), want) for length in lengths]
    found = [case.to(case.backend) for case in found]
    return sorted(dict.fromkeys(found), key=lambda case: case.sizes.length != sizes.length)


def _ratio(rows: Rows, case: Case, peer: Case) -> str:
    mine, its = rows.get(case), rows.get(peer)
    if isinstance(mine, Measured) and isinstance(its, Measured):
        return f"{mine.seconds / its.seconds:.2f}"
    return "-"


def _table(rows: Rows, idle: Idle, sizes: Sizes) -> Table:
    env = idle.environment
    device = f"{os.cpu_count()} cores" if env["platform"] == "cpu" else env["device"]
    table = Table(
        title=f"{device} ({env['platform']}), jax {env['jax']}, {date.today():%d %B %Y}; causal, batch {sizes.batch}, "
        f"{sizes.heads} heads of {sizes.head_size}, {sizes.dtype}; median of {REPEATS} after compilation",
        caption=f"Memory in MiB. temporaries: what XLA allots to the compiled call. peak: of a process that does this "
        f"alone, compilation and arguments included, less the {idle.peak / MIB:.0f} MiB of one that does nothing. "
        f"TFLOP/s: of the products that causal attention needs. error: |x - exact| / |exact|, the largest of output "
        f"and gradients, on at most {EXACT} tokens, with {PEER} in float32 as exact.",
        title_justify="left",
        caption_justify="left",
    )
    for name in ("variant", "class", "pass", "backend"):
        table.add_column(name)
    for name in ("T", "seconds", "TFLOP/s", f"over {PEER}", f"over softmax by {JAX}", "temporaries", "peak", "error"):
        table.add_column(name, justify="right")
    before: tuple[Any, ...] = ()
    for case, found in rows.items():
        group = case.variant, case.backward, case.sizes == sizes
        if before and before != group:
            table.add_section()
        before = group
        kind = VARIANTS[case.variant].variant.properties.streaming.value
        cells = [case.what, kind, case.passes, case.backend, str(case.sizes.length)]
        if isinstance(found, Measured):
            cells += [f"{found.seconds:.3g}", f"{case.flops / found.seconds / 1e12:.3g}"]
            cells += [_ratio(rows, case, case.to(PEER)), _ratio(rows, case, case.to(JAX))]
            cells += ["-" if found.temporary is None else f"{found.temporary / MIB:.1f}"]
            cells += [f"{(found.peak - idle.peak) / MIB:.0f}", f"{found.error:.1e}"]
        else:
            cells += ["-"] * 7
        table.add_row(*map(escape, cells))
    return table


def _growth(rows: Rows, idle: Idle) -> Iterator[str]:
    """How memory grows where a length was measured together with its half."""
    for case, found in rows.items():
        half = rows.get(replace(case, sizes=replace(case.sizes, length=case.sizes.length // 2)))
        if not (isinstance(found, Measured) and isinstance(half, Measured)):
            continue
        words = [f"peak {(found.peak - idle.peak) / (half.peak - idle.peak):.2f}" if half.peak > idle.peak else ""]
        words += [f"temporaries {found.temporary / half.temporary:.2f}" if found.temporary and half.temporary else ""]
        times = " and ".join(filter(None, words))
        length = case.sizes.length
        yield f"{case.variant}, {case.passes}, {case.backend}, T {length // 2} to {length}: {times} times"


def bench(
    variants: Sequence[str],
    backends: Sequence[str],
    sizes: Sizes,
    long: int | None,
    console: Console,
    want: str = "",
) -> int:
    """Measure and print; Ctrl-C prints what there is.

    Args:
        variants: names in the catalogue, a few of different classes if empty.
        backends: names in the table of backends, those of this platform if empty.
        sizes: of every call.
        long: length up to which the backends without arrays of scores are measured, too, or None.
        console: where to print.
        want: an entry of `Aux` to return beside the output, "" for none.

    Returns:
        Exit code: 0, or 130 after Ctrl-C.

    Raises:
        ValueError: a variant or backend does not exist.
    """
    cases(variants, backends, sizes, long, want=want)  # a mistake shows before anything is started
    # Only other processes touch the device: one that holds a GPU leaves the others too little memory.
    still = isolated(None)
    if isinstance(still, Failed):
        raise ValueError(f"the device does not start: {still.reason}.")
    todo = cases(variants, backends, sizes, long, still.environment["platform"], want)
    total, done, start = sum(case.cost for case in todo), 0.0, time.monotonic()
    bar = bar_with_time_left(console, speed_estimate_period=3600.0)  # a case may last for minutes
    rows: Rows = {}
    refused: set[tuple[str, str]] = set()
    stopped = False
    try:
        with bar:
            task = bar.add_task("", total=total)
            for case in todo:
                bar.update(task, description=escape(case.words))
                if not console.is_terminal:
                    elapsed = time.monotonic() - start
                    left = f", about {elapsed / done * (total - done):.0f} s left" if done else ""
                    console.print(f"[{elapsed:5.0f} s{left}] {case.words}", markup=False)
                pair = case.variant, case.backend
                if pair not in refused:
                    rows[case] = found = isolated(case)
                    if isinstance(found, Failed) and found.refused:
                        refused.add(pair)
                done += case.cost
                bar.advance(task, case.cost)
    except KeyboardInterrupt:
        stopped = True
    console.print(_table(rows, still, sizes))
    for case, found in rows.items():
        if isinstance(found, Failed):
            console.print(f"{case.words}: {found.reason}", markup=False)
    for line in _growth(rows, still):
        console.print(line, markup=False)
    if stopped:
        console.print(f"stopped after {len(rows)} of {len(todo)} cases", markup=False)
    return STOPPED if stopped else 0
