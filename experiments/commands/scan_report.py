"""The report of a scan: which figures there are, and what each says."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.figures.scan_heads import dormant_heads, head_maps, zeroing_costs
from experiments.figures.scan_layers import drain_and_peak, massive_dimensions, sink_map, sink_places
from experiments.figures.style import style
from experiments.report.scan import Section, render_scan


def write_report(
    scan: Mapping[str, Any],
    received: NDArray[np.float64],
    maps: NDArray[np.float16],
    tokens: Sequence[str],
    out: Path,
) -> Path:
    """Draw the figures of a scan and write report.html.

    Args:
      scan: the content of scan.json.
      received: [L, T] attention received by position, averaged over heads.
      maps: [L, N, T, T] attention weights of a sample. tokens: its T token strings.
      out: the file.
    """
    queries = "after it" if scan["causal"] else "other than it"
    sections = [
        Section(
            "Sink by layer and head",
            f"Mean weight that the queries {queries} give the sink. A head near 1 looks at nothing else.",
            _png(sink_map(scan)),
            "Map of layers and heads; its numbers are in the tables of layers and heads.",
        ),
        Section(
            "Where the sink stands",
            "Attention that each position receives from the queries that can see it. A column that is dark through "
            "many layers is a sink; a dark end of a causal sample is seen by few queries.",
            _png(sink_places(scan, received)),
            "Map of layers and positions; the position of the sink is in the table of layers.",
        ),
        Section(
            "Value drain and residual peak",
            "A sink that does nothing has small values, a ratio below 1. In many decoders its residual stream is far "
            "larger than that of the other tokens.",
            _png(drain_and_peak(scan)),
            "Curves along the layers; their numbers are in the table of layers.",
        ),
        Section(
            "Massive dimensions",
            "The dimensions that hold the residual stream of the sink, and how far the largest entry is above the "
            "median.",
            _png(massive_dimensions(scan)),
            "Curves along the layers; their numbers are in the table of layers.",
        ),
        Section(
            "Dormant heads",
            f"Left: heads whose output is small beside that of their layer; a cross marks those below "
            f"{scan['inactive_share']}, which count as inactive. Right: heads of low entropy look at few tokens.",
            _png(dormant_heads(scan)),
            "Maps of layers and heads; their numbers are in the table of heads.",
        ),
    ]
    if scan["zeroing"]:
        sections.append(
            Section(
                "What zeroing a head costs",
                f"The {scan['zeroing']['words']}, when the output of one head is zero.",
                _png(zeroing_costs(scan)),
                "Map of layers and heads for each domain; its numbers are in the table of heads.",
            )
        )
    sections.append(
        Section(
            "Attention maps",
            "A query in each row, a key in each column; the first tokens of one sample.",
            _png(head_maps(scan, maps, tokens)),
            "Attention maps of a few heads; all of them are in maps.npz.",
        )
    )
    return render_scan(scan, sections, tokens, out)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    with style():
        figure.savefig(content, format="png", dpi=150)
    return content.getvalue()
