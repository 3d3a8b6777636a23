"""Sinks are necessary for softmax: the trigger task of 2603.11487, weights that solve it, and what they must give.

A sequence is `<s>` and L - 1 tokens of width n. Coordinate 0 flags `<s>`, 1 the one trigger, n-1 the other (content)
tokens; coordinates 2..n-2 of all but `<s>` are uniform in (-1, 1). The answer at the trigger, position j, is the mean
of tokens 2..j, elsewhere it is zero. Positions and rows count from 1, as in the source. Weights act on row vectors:
a query is x @ query, and the scores have no factor 1/sqrt(n). Statements marked new are this project's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, Array]


def draw(rng: np.random.Generator, shape: tuple[int, ...], length: int, width: int) -> tuple[Array, NDArray[np.int64]]:
    """Sequences of the task (section 3 of the source).

    Args:
      rng: of the random numbers. shape: of the batch. length: L, at least 3. width: n, at least 4.

    Returns:
      (x [*shape, L, n], trigger [*shape], its position in 3..L).

    Raises:
      ValueError: the length or the width is too small for the task.
    """
    if length < 3 or width < 4:
        raise ValueError(
            f"the task needs length >= 3 and width >= 4, but length is {length} and width is {width}; enlarge them."
        )
    trigger = rng.integers(3, length, shape, endpoint=True)
    x = np.zeros((*shape, length, width))
    x[..., 0, 0] = 1.0
    x[..., 1] = np.arange(1, length + 1) == trigger[..., None]
    x[..., 1:, 2:-1] = rng.uniform(-1.0, 1.0, (*shape, length - 1, width - 3))
    x[..., 1:, -1] = 1.0 - x[..., 1:, 1]
    return x, trigger


# Weights that solve it ------------------------------------------------------------------------------------------
def relu_construction(width: int) -> Weights:
    """N1: a query is the trigger flag, a key the sum of content and trigger flag, a value the token itself.

    Args:
      width: n.

    Returns:
      {"query", "key", "value"}, each [n, n].
    """
    query, key = np.zeros((2, width, width))
    query[1, 0] = 1.0
    key[[1, width - 1], 0] = 1.0
    return {"query": query, "key": key, "value": np.eye(width)}


def softmax_construction(width: int, logit: float, keep_start: bool = False) -> Weights:
    """N2: every query but the trigger's puts `logit` on `<s>`, the trigger's puts -logit; all other logits are 0.

    Args:
      width: n. logit: c, the logit on `<s>`. keep_start: leave coordinate 0 in the value, which then leaks.

    Returns:
      {"query", "key", "value"}, each [n, n].
    """
    query, key = np.zeros((2, width, width))
    query[[0, 1, width - 1], 0] = 1.0, -1.0, 1.0
    key[0, 0] = logit
    value = np.eye(width)
    value[0, 0] = float(keep_start)
    return {"query": query, "key": key, "value": value}


# Predictions ----------------------------------------------------------------------------------------------------
def answer(x: Array, trigger: NDArray[np.int64]) -> Array:
    """What the task asks for: at the trigger the mean of tokens 2..j, elsewhere 0 (section 3 of the source).

    Args:
      x: [N, L, n]. trigger: [N], position of the trigger.

    Returns:
      [N, L, n].
    """
    result = np.zeros_like(x)
    for sequence, tokens, j in zip(result, x, trigger, strict=True):
        sequence[j - 1] = tokens[1:j].mean(0)
    return result


def zero_loss(length: int, width: int, every: bool = False) -> float:
    """Expected loss of the answer zero: the mean over rows of the squared norm of the task's answer (new).

    The mean of m tokens has (n-3)/(3m) from its uniform coordinates, and from its flags 1 if the trigger is not among
    them, else ((m-1)^2 + 1)/m^2.

    Args:
      length: L. width: n. every: the task without a default, whose answer in row i >= 2 is the mean of tokens 2..i.
    """
    m = np.arange(1.0, length)
    drawn, flags = (width - 3) / (3 * m), ((m - 1) ** 2 + 1) / m**2
    if not every:
        return float((drawn + flags)[1:].mean() / length)
    # The trigger is at one of L-2 places, m-1 of which have come by row m+1.
    passed = (m - 1) / (length - 2)
    return float((drawn + passed * flags + 1 - passed).sum() / length)


def row_divisor_gain(trigger: NDArray[np.int64]) -> Array:
    """N1 under relu(logit) / j in place of relu(logit) / max(j - 1, 1): the answer at the trigger comes out times this.

    The divisor of `jaxsink.attention.ReLU` counts `<s>`; a content-only query cannot undo a factor of its position.

    Args:
      trigger: [...] position j.
    """
    return (trigger - 1) / trigger


def elsewhere(logit: float, row: NDArray[np.int64]) -> Array:
    """N2: the weight off `<s>` in a non-trigger row, i - 1 keys of logit 0 beside one of logit c (exact).

    One minus it is the sink, e^c / (e^c + i - 1); at c = 5, 10, 20 and i = 16: .908, .9993, 1 - 3.1e-8.

    Args:
      logit: c. row: [...] i.
    """
    return (row - 1) / (np.exp(logit) + row - 1)


def largest_error(logit: float, trigger: NDArray[np.int64], length: int) -> Array:
    """N2: the largest error over rows and coordinates of each sequence (exact, new; to leading order (L-2) e^{-c}).

    It is that of the content flag in the last non-trigger row, where L - 2 content tokens have come in either case.
    (For e^c < L - 3 the row before a trigger at L - 1 is worse; sums of uniform coordinates do not come near.)
    For L = 16: 8.6e-2, 6.4e-4 and 2.9e-8 at c = 5, 10 and 20.

    Args:
      logit: c, at least log(L - 3). trigger: [N]. length: L.
    """
    last = np.where(trigger == length, length - 1, length)
    return (length - 2) / (np.exp(logit) + last - 1)


def trigger_error(logit: float, trigger: NDArray[np.int64], largest: Array) -> Array:
    """N2: the largest error in the trigger row, whose weight on `<s>` is e^{-c} / (e^{-c} + j - 1) (exact, new).

    Args:
      logit: c. trigger: [N] position j. largest: [N] largest coordinate of the answer, as a size.
    """
    return np.exp(-logit) / (np.exp(-logit) + trigger - 1) * largest


def readout(value: Array) -> Array:
    """[n] the shortest w with w . (x @ value) = 1 for every token but `<s>` (new).

    A token but `<s>` has exactly one of the flags 1 and n-1, so that w solves value[1:] w = e_1 + e_{n-1}.

    Args:
      value: [n, n], the product of value and output map, of rank n-1 or more off coordinate 0.
    """
    ones = np.zeros(len(value) - 1)
    ones[[0, -1]] = 1.0
    return np.linalg.pinv(value[1:]) @ ones


def elsewhere_from_output(value: Array, output: Array) -> Array:
    """N3: the weight off `<s>` in every row of ANY softmax solution, from its output alone (exact, new).

    With w of `readout`, w . o_i = (1 - A_i) + A_i g, where A_i is the weight on `<s>` and g = w . (`<s>` @ value).

    Args:
      value: [n, n]. output: [..., n].

    Returns:
      [...], 1 - A_i = (w . o_i - g) / (1 - g).
    """
    w = readout(value)
    start = float(w @ value[0])
    return (output @ w - start) / (1 - start)


def most_elsewhere(loss: Array, length: int, share: float, norm: float = np.sqrt(2)) -> Array:
    """N3: the mean weight off `<s>` in any non-trigger row is at most this, for a softmax solution of a loss (new).

    From `elsewhere_from_output`, |1 - A_i| <= |w| (|o_i| + |o_1|) since o_1 = `<s>` @ value; rows 1 and i have the
    answer 0, and the losses of rows add up to L times the mean. With E|o_i|^2 over the share p of sequences in which
    row i is no trigger, Cauchy-Schwarz gives |w| sqrt(L loss (1 + 1/p)).
    |w|: at zero loss the trigger rows force value = lambda 1 on all tokens but `<s>`. (There N = value^-1 maps a + b
    into the span of a and b for almost all a, b, hence is a multiple of 1; the softmax weights on tokens 2..j are then
    1 / (lambda (j-1)) and add up to 1 at most, so lambda >= 1.) Hence |w| = sqrt(2) / lambda, at most sqrt(2).

    Args:
      loss: [...] mean over sequences and rows of the squared norm of the error. length: L. share: p.
      norm: |w| of the solution; the default is its largest value at small loss.
    """
    return norm * np.sqrt(length * loss * (1 + 1 / share))
