"""Float64 loops for the tasks, written from their definition alone."""

import math


def circular_counts(text: str) -> tuple[list[str], list[list[int]]]:
    characters = sorted(set(text))
    counts = [[0] * len(characters) for _ in characters]
    for position, character in enumerate(text):
        following = text[(position + 1) % len(text)]
        counts[characters.index(character)][characters.index(following)] += 1
    return characters, counts


def transition(counts) -> list[list[float]]:
    return [[float(c) / math.fsum(row) for c in row] for row in counts]


def first_law(counts, triggers) -> list[float]:
    frequency = [0.0 if i in triggers else math.fsum(row) for i, row in enumerate(counts)]
    return [f / math.fsum(frequency) for f in frequency]


def law(counts, triggers, starts, copy_probability, rule, prefix) -> list[float]:
    """Probabilities of the token after the whole prefix, a list of tokens; the start token is len(counts)."""
    start = len(counts)
    rows = transition(counts)
    last = prefix[-1]
    if len(prefix) < starts:
        return [0.0] * start + [1.0]
    if last == start:
        return [*first_law(counts, triggers), 0.0]
    plain = [*rows[last], 0.0]
    if last not in triggers or len(prefix) == 1 or prefix[-2] == start:
        return plain
    if rule == "backcopy":
        applied = [1.0 if token == prefix[-2] else 0.0 for token in range(start + 1)]
    else:
        applied = [*rows[prefix[-2]], 0.0]
    return [copy_probability * a + (1.0 - copy_probability) * p for a, p in zip(applied, plain, strict=True)]


def entropy(probabilities) -> float:
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0.0)


def inverse_cdf(probabilities, uniform: float) -> int:
    """The first outcome whose cumulative probability exceeds the uniform draw in [0, 1)."""
    cumulative = 0.0
    for outcome, probability in enumerate(probabilities):
        cumulative += probability
        if uniform < cumulative:
            return outcome
    raise AssertionError("the probabilities do not reach the draw")
