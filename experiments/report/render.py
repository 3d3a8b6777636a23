"""Turns claims.json and figures into one HTML file that needs nothing else."""

import base64
import hashlib
import math
import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from experiments.figures.text import interval, number, tolerance
from experiments.report.overview import SECTIONS
from jaxsink.files import whole

_HERE = Path(__file__).parent
_PNG = b"\x89PNG\r\n\x1a\n"

# Status -> (symbol, style class). The symbol and the word carry the meaning; the colour only repeats it.
_STATUSES = {
    "supported": ("✓", "supported"),
    "refuted": ("✗", "refuted"),
    "inconclusive": ("?", "inconclusive"),
    "check broken": ("!", "broken"),
    "not run": ("–", "notrun"),
}


class _Picture(NamedTuple):
    title: str
    alt: str
    uri: str
    width: int
    height: int


class _Section(NamedTuple):
    title: str
    anchor: str
    pictures: list[_Picture]


class _Card(NamedTuple):
    claim: Mapping[str, Any]
    anchor: str
    group: str
    worst: str
    surprising: bool
    pictures: list[_Picture]


def render(claims: Mapping[str, Any], figures: Mapping[str, Path | bytes], out: Path) -> Path:
    """Writes the report of a verification.

    Args:
        claims: the content of claims.json (schema 1).
        figures: PNG images, as bytes or as the path of a file. A claim's id, or its id followed by `/` and a
            word, puts the image on the card of that claim; every other name (`dynamics`, ...) puts it into
            the section of `overview.SECTIONS` that lists it, and one that none lists into a last section.
        out: the HTML file to write; replaced in one step, so that a reader never sees half a report.

    Returns:
        The path written.

    Raises:
        ValueError: `claims` is of another schema, or a figure is no readable PNG.
    """
    if claims.get("schema") != 1:
        raise ValueError(
            f"claims['schema']: expected 1, got {claims.get('schema')!r}; pass the content of a claims.json "
            "that this version wrote."
        )
    entries = claims.get("claims", [])
    identifiers = {str(entry["id"]) for entry in entries}
    owned: dict[str, list[_Picture]] = {}
    others = dict(figures)
    for name, image in figures.items():
        owner = name.split("/", 1)[0]
        if owner in identifiers:
            alt = f"Figure of claim {owner}; its numbers are in the tables of this card."
            owned.setdefault(owner, []).append(picture_of(name, image, name, alt))
            del others[name]
    cards = [_card(entry, owned.get(str(entry["id"]), [])) for entry in entries]
    page = (
        page_environment()
        .get_template("report.html.j2")
        .render(
            report=claims,
            created=date_words(claims.get("created")),
            summary=_summary(entries),
            cards=cards,
            sections=_sections(others),
            statuses=[status for status in _STATUSES if any(entry.get("status") == status for entry in entries)],
            groups=sorted({card.group for card in cards}),
            sources=sorted({str(entry.get("source", "")) for entry in entries} - {""}),
            **inlined("css", "js"),
        )
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def _sections(figures: Mapping[str, Path | bytes]) -> list[_Section]:
    """The sections of the overview that have a figure."""
    left, sections = dict(figures), []
    for title, rows in SECTIONS.items():
        shown = [picture_of(name, left.pop(name), row.title, row.alt) for name, row in rows.items() if name in left]
        sections.append(_Section(title, title.lower(), shown))
    sections.append(_Section("Other figures", "other", [picture_of(n, i, n, f"Figure {n}.") for n, i in left.items()]))
    return [section for section in sections if section.pictures]


def page_environment() -> jinja2.Environment:
    """The templates of this folder, in which everything is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, interval=interval, tolerance=tolerance, words=_words, duration=_duration, badge=_badge
    )
    return environment


def inlined(*kinds: str) -> dict[str, str]:
    """Style and script, each with the digest by which the content security policy admits it alone."""
    found: dict[str, str] = {}
    for kind in kinds:
        text = (_HERE / f"report.{kind}").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        found[kind], found[f"{kind}_hash"] = Markup(text), f"sha256-{digest}"
    return found


def _card(claim: Mapping[str, Any], pictures: list[_Picture]) -> _Card:
    identifier = str(claim["id"])
    status, expected = claim.get("status", "not run"), claim.get("expected")
    return _Card(
        claim=claim,
        # Percent and space have a meaning in addresses: anything but word characters becomes its code point.
        anchor="claim-" + re.sub(r"[^A-Za-z0-9-]", lambda match: f"_{ord(match[0]):x}_", identifier),
        group=(re.match(r"[A-Za-z]+", identifier) or [identifier])[0],
        worst=_worst(claim.get("measures") or []),
        surprising=bool(expected) and status in ("supported", "refuted") and status != expected,
        pictures=pictures,
    )


def _worst(measures: Sequence[Mapping[str, Any]]) -> str:
    if not measures:
        return "–"
    # Outside comes before undecided before inside; among equals the one with the least room left.
    rank = {False: 0, None: 1, True: 2}
    measure = min(measures, key=lambda measure: (rank.get(measure.get("inside"), 1), _room(measure)))
    return f"{measure['name']}: {number(measure.get('measured'))} ({tolerance(measure.get('tolerance'))})"


def _room(measure: Mapping[str, Any]) -> float:
    """Distance of the mean from the nearer bound, in units of the tolerance's width or of its only bound."""
    mean = measure.get("measured")
    bounds = [end for end in measure.get("tolerance") or [] if end is not None and math.isfinite(end)]
    if not isinstance(mean, (int, float)) or math.isnan(mean):
        return -math.inf
    if not bounds:
        return math.inf
    low, high = measure["tolerance"]
    scale = abs(bounds[-1] - bounds[0]) or abs(bounds[0]) or 1.0
    below = math.inf if low is None else mean - low
    above = math.inf if high is None else high - mean
    return min(below, above) / scale


def _summary(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    counts = Counter(str(entry.get("status", "not run")) for entry in entries)
    return [(status, counts.pop(status, 0)) for status in _STATUSES] + sorted(counts.items())


def _badge(status: object) -> Markup:
    symbol, name = _STATUSES.get(str(status), ("·", "notrun"))
    return Markup('<span class="badge {}"><span aria-hidden="true">{}</span> {}</span>').format(name, symbol, status)


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"  # counts are exact
    return number(value)


def _duration(seconds: object) -> str:
    if not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        return "–"
    if seconds < 100:
        return f"{number(float(seconds))} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def date_words(created: object) -> str:
    """A time of creation as a reader would say it."""
    try:
        return datetime.fromisoformat(str(created)).strftime("%d %B %Y, %H:%M %Z").strip()
    except ValueError:
        return "–" if created is None else str(created)


def picture_of(name: str, image: Path | bytes, title: str, alt: str) -> _Picture:
    """A PNG, or the file of one, as the page holds it.

    Raises:
        ValueError: the file cannot be read, or is no PNG.
    """
    if not isinstance(image, bytes):
        try:
            image = Path(image).read_bytes()
        except OSError as error:
            raise ValueError(
                f"figures[{name!r}]: expected a PNG file, got {str(image)!r} ({error.strerror}); draw the figure first."
            ) from error
    if not image.startswith(_PNG) or len(image) < 24:
        raise ValueError(f"figures[{name!r}]: expected a PNG image, got {image[:8]!r}...; pass the .png, not the .svg.")
    # The size stands at a fixed place in the first chunk of every PNG (PNG specification, 11.2.1).
    width, height = struct.unpack(">II", image[16:24])
    return _Picture(title, alt, "data:image/png;base64," + base64.b64encode(image).decode(), width, height)
