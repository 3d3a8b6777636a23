"""Controls of waiver elements: attention and values at the controlled token, layer by layer (after 2407.01601)."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from experiments.figures.evidence import Arms, Run, leading_run, values
from experiments.figures.style import BASELINE, arm_colours, new_figure, style
from experiments.figures.text import literal

_DASHES = ("-", "--", ":")
# So many arms have a line of their own before the next style begins: colours alone do not tell more apart.
_EACH = 6
_FEWEST = 1e-4


def controls(runs: Arms) -> Figure:
    """Draws what the controlled token receives and how large its value is, for each control.

    Args:
        runs: arm name to one run per seed. An arm without a control is drawn at the token that the others control.

    Returns:
        The figure, a column for decoders and one for encoders: above attention received, below value norm over the
        median of the passage, against the block. They are means over seeds and passages, the attention's arithmetic and
        the ratio's geometric; several tokens are averaged.

    Raises:
        ValueError: there is no run, or a run lacks an array.
    """
    leading_run(runs)
    rows = next((run.manifest["rows"] for each in runs.values() for run in each if run.manifest["rows"]), [0])
    kinds = {True: "decoder", False: "encoder"}
    groups = [[arm for arm, each in runs.items() if each[0].manifest["causal"] is causal] for causal in kinds]
    drawn = [(words, group) for words, group in zip(kinds.values(), groups, strict=True) if group]
    with style():
        figure = new_figure(5.6 * len(drawn) + 0.4, 6.0 + 0.17 * max(map(len, groups)))
        grid = figure.subplots(2, len(drawn), squeeze=False, sharex="col")
        for (words, group), (received, norms) in zip(drawn, grid.T, strict=True):
            colours = arm_colours(group)
            for index, arm in enumerate(group):
                look = {"color": colours[arm], "ls": _DASHES[index // _EACH % len(_DASHES)], "lw": 1.5}
                each = runs[arm]
                received.plot(
                    np.mean([_received(run, rows) for run in each], axis=0), label=_words(runs[arm][0]), **look
                )
                norms.plot(np.exp(np.mean([_log_ratio(run, rows) for run in each], axis=0)), **look)
            received.set_yscale("log")
            received.set_ylim(_FEWEST, 1.5)
            received.set_ylabel("attention received, mean weight")
            received.set_title(f"The controlled token of {'an' if words[0] == 'e' else 'a'} {words}")
            norms.set_yscale("log")
            norms.axhline(1.0, color=BASELINE, lw=0.8, zorder=0)
            norms.set_ylabel("value norm / median")
            norms.set_xlabel("block")
            norms.xaxis.set_major_locator(MaxNLocator(integer=True))
            norms.legend(
                *received.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.0, -0.16), fontsize=7.5
            )
    return figure


def _words(run: Run) -> str:
    return literal(str(run.manifest["control"]) or "no control")


def _rows(run: Run, rows: list[int]) -> list[int]:
    return run.manifest["rows"] or rows


def _received(run: Run, rows: list[int]) -> NDArray[np.float64]:
    """[L]."""
    return np.maximum(values(run, "received")[..., _rows(run, rows)].mean((0, 2)), _FEWEST)


def _log_ratio(run: Run, rows: list[int]) -> NDArray[np.float64]:
    """[L]."""
    norms = values(run, "value_norm")
    ratio = norms[..., _rows(run, rows)] / np.median(norms, axis=-1, keepdims=True)
    return np.asarray(np.log(ratio).mean((0, 2)))
