"""`jaxsink variants`: the catalogue of attention variants, and which backend takes which, found by tracing."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from jaxsink.attention import BACKENDS, VARIANTS, AttentionDims, Causal, Composite, Entry, Streaming, Variant, attend

# What JAX raises where a derivative is not defined: by a custom_vjp, by a primitive without a rule, by a lowering.
_UNDEFINED = (TypeError, ValueError, NotImplementedError)


class Arguments(NamedTuple):
    """The arrays of a call of `attend`; x is None for a variant that does not read it."""

    q: Array
    k: Array
    v: Array
    params: Mapping[str, Any]
    x: Array | None


@dataclass(frozen=True)
class Sizes:
    """Sizes of a call with as many keys as queries; the model is as wide as its heads together."""

    batch: int
    length: int
    heads: int
    head_size: int
    dtype: str = "float32"

    def arguments(self, variant: Variant, key: Array) -> Arguments:
        """Return random arrays."""
        width = self.heads * self.head_size
        dims = AttentionDims(self.heads, self.heads, self.head_size, self.head_size, width)
        of_q, of_k, of_v, of_x, of_params = jax.random.split(key, 5)
        shape = (self.batch, self.length, self.heads, self.head_size)
        q, k, v = (jax.random.normal(one, shape, self.dtype) for one in (of_q, of_k, of_v))
        needs_x = isinstance(variant, Composite) and variant.needs_x
        x = jax.random.normal(of_x, (self.batch, self.length, width), self.dtype) if needs_x else None
        return Arguments(q, k, v, variant.init(of_params, dims), x)


# Nothing of this size is ever computed; it is a size that kernels which work in tiles take, too.
_TRACED = Sizes(batch=1, length=128, heads=2, head_size=64)


@dataclass(frozen=True)
class Support:
    """What a backend does for a variant.

    Attributes:
        refusal: why it does not take the variant, or None if it does.
        reverse: whether reverse-mode derivatives exist.
        forward: whether forward-mode derivatives exist.
    """

    refusal: str | None
    reverse: bool = False
    forward: bool = False

    @property
    def words(self) -> str:
        """The derivatives, "values only" for none, "-" for a variant that is not taken."""
        if self.refusal is not None:
            return "-"
        found = [name for name in ("reverse", "forward") if getattr(self, name)]
        return ", ".join(found) or "values only"


def nearest(kind: str, name: str, known: Collection[str], where: str) -> ValueError:
    """The mistake of a name that does not exist, with the nearest that does and where they are listed."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return ValueError(f"there is no {kind} {name!r}; the nearest is {close[0]!r} (list: {where}).")


def chosen(names: Sequence[str]) -> dict[str, Entry]:
    """The entries of the catalogue with these names, all if there are none.

    Raises:
        ValueError: a name is not in the catalogue; the nearest is named.
    """
    for name in names:
        if name not in VARIANTS:
            raise nearest("variant", name, VARIANTS, "jaxsink variants")
    return {name: VARIANTS[name] for name in names or VARIANTS}


def _defined(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except _UNDEFINED:
        return False
    return True


def support(variant: Variant, backend: str) -> Support:
    """Find out by tracing what a backend does for a variant under a causal mask, without computing anything."""
    traced = replace(_TRACED, dtype=BACKENDS[backend].dtype)
    arguments = jax.eval_shape(lambda key: traced.arguments(variant, key), jax.random.key(0))

    def run(a: Arguments) -> Array:
        return attend(a.q, a.k, a.v, variant, params=a.params, x=a.x, mask=Causal(), backend=backend)

    try:
        jax.eval_shape(run, arguments)
    except ValueError as error:
        return Support(str(error))
    # A custom_vjp lets jvp trace through and objects when it is lowered.
    platform = {"gpu": "cuda"}.get(BACKENDS[backend].platforms[0], BACKENDS[backend].platforms[0])
    tangents = jax.jit(lambda a: jax.jvp(run, (a,), (a,)))
    return Support(
        refusal=None,
        reverse=_defined(lambda: jax.eval_shape(jax.grad(lambda a: jnp.sum(run(a))), arguments)),
        forward=_defined(lambda: tangents.trace(arguments).lower(lowering_platforms=(platform,))),
    )


def _compact(found: Mapping[str, tuple[Entry, Mapping[str, Support]]]) -> Table:
    used = {entry.variant.properties.streaming for entry, _ in found.values()}
    classes = ", ".join(f"{kind.value} {_said(kind)}" for kind in Streaming if kind in used)
    platform = jax.default_backend()
    here = {name: backend for name, backend in BACKENDS.items() if platform in backend.platforms}
    others = ", ".join(f"{name} ({', '.join(BACKENDS[name].platforms)})" for name in BACKENDS if name not in here)
    table = Table(
        title=f"{len(found)} variants of attention; query i, key j, head h; jaxsink variants NAME for all of one",
        caption=f"Class of blockwise evaluation: {classes}. Under a backend and "
        f"its platforms: the derivatives that it has for the variant, - if it does not take it. Not on {platform}: "
        f"{others}.",
        title_justify="left",
        caption_justify="left",
    )
    for name in ("variant", "class"):
        table.add_column(name, no_wrap=True)
    table.add_column("equation")
    table.add_column("learned parameters", max_width=28)
    for name, backend in here.items():
        table.add_column(escape(f"{name}\n({', '.join(backend.platforms)})"), no_wrap=True)
    for name, (entry, backends) in found.items():
        kind = entry.variant.properties.streaming.value
        cells = (name, kind, entry.equation, entry.parameters, *(backends[backend].words for backend in here))
        table.add_row(*map(escape, cells))
    return table


def _said(kind: Streaming) -> str:
    return kind.name.lower().replace("_", " ")


def _full(name: str, entry: Entry, backends: Mapping[str, Support]) -> Table:
    variant, properties = entry.variant, entry.variant.properties
    composite = variant if isinstance(variant, Composite) else None
    rows = {
        "equation": entry.equation,
        "source": entry.source,
        "in Python": repr(variant),
        "parameters": entry.parameters,
        "class": f"{properties.streaming.value}, {_said(properties.streaming)}",
        "mass of a row": properties.mass.value,
        "reads x": "yes" if composite and composite.needs_x else "no",
    }
    if composite and composite.traits:
        rows["besides"] = "; ".join(sorted(trait.value for trait in composite.traits))
    for backend, found in backends.items():
        platforms = ", ".join(BACKENDS[backend].platforms)
        rows[backend] = found.refusal or f"on {platforms}; derivatives: {found.words}"
    table = Table(title=escape(name), title_justify="left", show_header=False, show_lines=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for row in rows.items():
        table.add_row(*map(escape, row))
    return table


def show(names: Sequence[str], console: Console) -> None:
    """Print the whole catalogue as one table, or the full entries of the named variants.

    Raises:
        ValueError: a name is not in the catalogue.
    """
    entries = chosen(names)
    work = track(
        entries.items(), description="tracing", console=console, transient=True, disable=not console.is_terminal
    )
    found = {name: (entry, {b: support(entry.variant, b) for b in BACKENDS}) for name, entry in work}
    if not names:
        console.print(_compact(found))
    for name, (entry, backends) in found.items() if names else ():
        console.print(_full(name, entry, backends))
