"""Turns scan.json and its figures into one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.report.render import date_words, inlined, page_environment, picture_of
from jaxsink.files import whole


class Section(NamedTuple):
    """A part of the report: a title, what there is to see, and a picture."""

    title: str
    text: str
    image: bytes
    alt: str


def render_scan(scan: Mapping[str, Any], sections: Sequence[Section], tokens: Sequence[str], out: Path) -> Path:
    """Writes the report of a scan.

    Args:
        scan: the content of scan.json (schema 1).
        sections: in their order, each with a PNG image.
        tokens: token strings of the sample whose maps are kept; they are escaped.
        out: the HTML file to write; replaced in one step, so that a reader never sees half a report.

    Returns:
        The path written.
    """
    pictures = [picture_of(section.title, section.image, section.text, section.alt) for section in sections]
    page = (
        page_environment()
        .get_template("scan.html.j2")
        .render(
            scan=scan,
            created=date_words(scan["created"]),
            sections=list(zip(sections, pictures, strict=True)),
            tokens=tokens,
            inactive=[head for head in scan["heads"] if head["dormancy"]["inactive"]],
            **inlined("css"),
        )
    )
    with whole(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out
