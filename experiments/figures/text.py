"""Numbers, intervals and tokens as a reader sees them, the same in the figures and in the report."""

import functools
import math
from collections.abc import Sequence

from matplotlib import font_manager, ft2font

_VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥"}


def number(value: object) -> str:
    """Writes a number with three significant digits.

    Args:
        value: a number of any unit; None stands for "not defined".

    Returns:
        Text such as `0.0123`, `12,300`, `4.5e-7`, `−∞`; an en dash for None, `NaN` for not a number, and any
        value that is no number as its own text.
    """
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    digits = f"{value:.2e}"
    mantissa, exponent = digits.split("e")
    if -4 <= int(exponent) < 3:
        text = f"{value:.3g}"
    elif 3 <= int(exponent) < 6:
        text = f"{float(digits):,.0f}"
    else:
        text = f"{float(mantissa):g}e{int(exponent)}"
    return text.replace("-", "−")


def interval(bounds: Sequence[float | None] | None) -> str:
    """Writes a confidence interval.

    Args:
        bounds: lower and upper end, or None where the interval is not defined.

    Returns:
        Text such as `[0.01, 0.02]`, or an en dash.
    """
    if bounds is None or any(end is None for end in bounds):
        return "–"
    return f"[{number(bounds[0])}, {number(bounds[1])}]"


def tolerance(bounds: Sequence[float | None] | None) -> str:
    """Writes a tolerance interval.

    Args:
        bounds: lower and upper end; None or an infinity marks a side without a bound.

    Returns:
        Text such as `≤ 0.02`, `≥ 0.95`, `0.8 to 1.2` or `any value`.
    """
    low, high = (None, None) if bounds is None else bounds
    has_low, has_high = (end is not None and math.isfinite(end) for end in (low, high))
    if has_low and has_high:
        return f"{number(low)} to {number(high)}"
    if has_low:
        return f"≥ {number(low)}"
    if has_high:
        return f"≤ {number(high)}"
    return "any value"


def token_label(token: str) -> str:
    """Makes every character of a token visible.

    Args:
        token: the token as the vocabulary has it.

    Returns:
        The token with space, newline and tab as symbols, and its code point for what the font cannot draw.
    """
    return "".join(_VISIBLE.get(character) or _drawable(character) for character in token) or "∅"


def literal(text: str) -> str:
    """Protects dollar signs, which matplotlib would take as the start of a formula."""
    return text.replace("$", r"\$")


def _drawable(character: str) -> str:
    if character.isprintable() and _font().get_char_index(ord(character)):
        return character
    return f"U+{ord(character):04X}"


@functools.lru_cache(maxsize=1)
def _font() -> ft2font.FT2Font:
    return font_manager.get_font(font_manager.findfont("DejaVu Sans"))
