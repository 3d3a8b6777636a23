"""What the figures read of the evidence: runs of one arm, stacked over their seeds."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from experiments.figures.text import literal, token_label


class Run(Protocol):
    """One training run with one seed."""

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]: ...

    @property
    def manifest(self) -> Mapping[str, Any]: ...

    @property
    def seed(self) -> int: ...


Arms = Mapping[str, Sequence[Run]]


class Curve(NamedTuple):
    """One logged quantity of one arm."""

    step: NDArray[np.float64]
    """[P] training steps that every seed has logged."""
    seeds: NDArray[np.float64]
    """[seed, P] values; NaN where a value is not finite."""

    @property
    def mean(self) -> NDArray[np.float64]:
        """[P] mean over the seeds; NaN where a seed has no finite value."""
        return self.seeds.mean(axis=0)


class Example(NamedTuple):
    """One of the two probing sequences of a run, cut to the positions shown."""

    title: str
    labels: list[str]
    triggers: NDArray[np.bool_]
    attention: NDArray[Any]
    """[L, T, T] weights."""
    value_norm: NDArray[Any]
    """[L, T]."""
    resid_norm: NDArray[Any]
    """[L, T]."""


def curve(arm: str, runs: Sequence[Run], name: str, layer: int | None = None) -> Curve:
    """Stacks one logged quantity over the seeds of an arm.

    Args:
        arm: name of the arm, for messages.
        runs: one run per seed.
        name: array name, [P] or [P, L].
        layer: which layer of a [P, L] array.

    Returns:
        The values at the steps that all seeds share (a run that was cut short has fewer).

    Raises:
        ValueError: the arm has no run, or a run lacks the array.
    """
    if not runs:
        raise ValueError(f"runs[{arm!r}]: expected at least one run, got none; drop the arm or make its evidence.")
    shared = np.asarray(_array(runs[0], "step"))
    for run in runs[1:]:
        shared = np.intersect1d(shared, _array(run, "step"))
    rows = []
    for run in runs:
        logged = values(run, name)
        logged = logged if layer is None else logged[:, layer]
        rows.append(logged[np.isin(_array(run, "step"), shared)])
    stacked = np.stack(rows)
    return Curve(np.unique(shared).astype(np.float64), np.where(np.isfinite(stacked), stacked, np.nan))


def values(run: Run, name: str) -> NDArray[np.float64]:
    """One array of a run in float64.

    Args:
        run: the run.
        name: array name.

    Raises:
        ValueError: the run lacks the array.
    """
    return np.asarray(_array(run, name), dtype=np.float64)


def layers(arms: Arms) -> int:
    """Counts the layers of the runs.

    Args:
        arms: arm name to runs.

    Returns:
        The largest number of layers of any arm.

    Raises:
        ValueError: there is no arm, or an arm without a run.
    """
    leading_run(arms)
    return max(int(_array(run, "attn_start").shape[1]) for runs in arms.values() for run in runs)


def leading_run(arms: Arms) -> tuple[str, Run]:
    """Picks the run that a figure of a single run shows: the first seed of the first arm.

    Args:
        arms: arm name to runs.

    Returns:
        Name of the arm, and the run.

    Raises:
        ValueError: there is no arm, or an arm without a run.
    """
    if not arms:
        raise ValueError("runs: expected at least one arm, got an empty mapping; pass the evidence of the claim.")
    for arm, runs in arms.items():
        if not runs:
            raise ValueError(f"runs[{arm!r}]: expected at least one run, got none; drop the arm or make its evidence.")
    arm = next(iter(arms))
    return arm, arms[arm][0]


def arm_label(arms: Arms, arm: str) -> str:
    """What an arm is called in a picture: its run in words without the sizes, or its name.

    Args:
        arms: arm name to runs.
        arm: the arm.

    Returns:
        Text that matplotlib shows as it stands.
    """
    words = str(arms[arm][0].manifest.get("label", arm))
    return literal(words.split(";")[0])


def example(run: Run, index: int, positions: int) -> Example:
    """Reads one probing sequence.

    Args:
        run: the run.
        index: 0 for the sequence rich in triggers, 1 for the one without.
        positions: how many positions to keep; more would not leave room for their labels.

    Returns:
        The sequence with its labels, attention maps and norms.

    Raises:
        ValueError: the run lacks an array, or a token has no label.
    """
    tokens = np.asarray(_array(run, "example_tokens"))[index]
    names = run.manifest.get("tokens", [])
    if int(tokens.max()) >= len(names):
        raise ValueError(
            f"manifest['tokens']: expected a label for token {int(tokens.max())}, got {len(names)} labels; "
            "write one label per token id, the start token last."
        )
    kept = min(positions, tokens.size)
    title = ("Trigger-rich", "Trigger-free")[index] + " sequence"
    if kept < tokens.size:
        title += f" (first {kept} of {tokens.size} positions)"
    return Example(
        title,
        [token_label(str(names[int(token)])) for token in tokens[:kept]],
        np.asarray(_array(run, "example_triggers"), dtype=np.bool_)[index, :kept],
        np.asarray(_array(run, "example_attention"))[index, :, :kept, :kept],
        np.asarray(_array(run, "example_value_norm"))[index, :, :kept],
        np.asarray(_array(run, "example_resid_norm"))[index, :, :kept],
    )


def _array(run: Run, name: str) -> NDArray[Any]:
    try:
        return run.arrays[name]
    except KeyError:
        raise ValueError(
            f"run of seed {run.seed}: expected an array {name!r} in its evidence, got none; remake the evidence."
        ) from None
