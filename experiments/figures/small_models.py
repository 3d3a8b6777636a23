"""Both controls of waiver elements on small models: a matrix of numbers (after 2407.01601)."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments.figures.evidence import Arms, Run, leading_run
from experiments.figures.style import INK, new_figure, style
from theory.claims.wv_small import change, over_even, over_first, sink, value_change
from theory.small_models import KINDS, SCHEMES

# A row for the first token, and one for each look that has a control, in the order in which they are compared.
_ROWS = {
    "free": "first token,\nno control",
    "mask": "token sees\nitself alone",
    "last_five": "token sees\nthe last five",
    "position": "token has the\nfirst position",
    "interior": "token has an\ninterior position",
}
_SCHEMES = {"rope": "RoPE", "alibi": "ALiBi", "none": "no positions"}
# Ends of the colours, and how far from 1 they are pale enough for dark words.
_LARGEST, _PALE = 8.0, 3.0
_TICKS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def small_models(runs: Arms) -> Figure:
    """Draws what small decoders and encoders answer to each control, a column a scheme of positions.

    Args:
        runs: arm name to one run per seed; an arm is placed by the kind and the scheme that its runs name.

    Returns:
        The figure, a matrix a kind. In its first row stands the attention that the first token receives over even
        attention, in the block in which it receives most of it. In the others stand the attention of the controlled
        token over that of the first one without control, without the control and with it, the same over even attention,
        and what the control multiplies its value norm by, for the blocks after the first. Colours are what the first
        row says, and what the control multiplies the token's attention by. All are geometric means over seeds.

    Raises:
        ValueError: there is no run.
    """
    leading_run(runs)
    shown: ScalarMappable = ScalarMappable(LogNorm(1 / _LARGEST, _LARGEST), "RdBu_r")
    placed = {(each[0].manifest["kind"], each[0].manifest["scheme"]): each for each in runs.values() if each}
    kinds = [kind for kind in KINDS if any(of == kind for of, _ in placed)]
    schemes = [scheme for scheme in SCHEMES if any(of == scheme for _, of in placed)]
    with style():
        figure = new_figure(2.6 + 1.3 * len(schemes), 0.7 + 3.2 * len(kinds))
        grid = figure.subplots(len(kinds), 1, squeeze=False)[:, 0]
        for kind, axes in zip(kinds, grid, strict=True):
            shades = np.full((len(_ROWS), len(schemes)), np.nan)
            for column, scheme in enumerate(schemes):
                if (kind, scheme) not in placed:
                    continue
                for row, look in enumerate(_ROWS):
                    shades[row, column], words = _cell(placed[kind, scheme], look)
                    pale = 1 / _PALE < shades[row, column] < _PALE
                    axes.text(column, row, words, ha="center", va="center", size=7.5, color=INK if pale else "white")
            axes.imshow(shades, cmap=shown.cmap, norm=shown.norm, aspect="auto")
            axes.set_xticks(range(len(schemes)), [_SCHEMES.get(scheme, scheme) for scheme in schemes])
            axes.set_yticks(range(len(_ROWS)), _ROWS.values())
            axes.set_xlabel("scheme of positions")
            axes.set_ylabel(kind)
            axes.grid(False)
            axes.tick_params(length=0)
        bar = figure.colorbar(shown, ax=list(grid), shrink=0.6)
        bar.set_ticks(_TICKS, labels=[f"{tick:g}" for tick in _TICKS])
        bar.minorticks_off()
        bar.set_label("attention over even attention (first rows), over that without control (others)")
    return figure


def _cell(each: Sequence[Run], look: str) -> tuple[float, str]:
    """The shade of a cell and the words in it."""

    def mean(read: Callable[..., float], *of: str) -> float:
        return float(np.exp(np.mean([np.log(read(run, *of)) for run in each])))

    if look == "free":
        return (share := mean(sink)), f"{share:.1f} × even"
    rows = [f"{mean(over_first, 'free'):.2f} → {mean(over_first, look):.2f} of first"]
    rows += [f"{mean(over_even, 'free'):.1f} → {mean(over_even, look):.1f} × even"]
    rows += [f"|v| × {mean(value_change, look):.2f}"]
    return mean(change, look), "\n".join(rows)
