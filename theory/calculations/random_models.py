"""Restricted models to compute on: batches of random ones, and that of Shakespeare's bigrams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from theory.calculations.base import Calculation
from theory.restricted import RestrictedModel, restricted_model

Start = tuple[np.ndarray, np.ndarray]


def model_arrays(models: RestrictedModel, start: Start) -> dict[str, np.ndarray]:
    """Models and starts by name, all with a leading axis of instances M.

    Returns:
      "p" [M, n, V], "pi" [M, n], "total" [M, C], "mean_value" [M, C, V], "start_alpha" [M, n], "start_beta" [M, V].
    """
    fixed = {name: np.asarray(getattr(models, name)) for name in ("p", "pi", "total", "mean_value")}
    return fixed | {"start_alpha": start[0], "start_beta": start[1]}


@dataclass(frozen=True)
class RandomModels(Calculation):
    """Random restricted models with 4 queries and 6 tokens, and where something starts on them.

    Attributes:
      logits, values: how alpha and beta start: drawn, one drawn number for all queries or tokens, or zero.
      rows: every token has a successor's probability above zero, or three tokens follow two of the queries, two
        others follow the other two, and one follows none.
      mean_value: B as drawn, or the same for all tokens. scale: of B; the values xi are between half and one and a
        half of it.
      contexts: C. instances: M.
    """

    logits: Literal["drawn", "constant", "zero"] = "drawn"
    values: Literal["drawn", "constant"] = "drawn"
    rows: Literal["full", "sparse"] = "full"
    mean_value: Literal["drawn", "constant"] = "drawn"
    scale: float = 1.0
    contexts: int = 1
    instances: int = 16

    @property
    def words(self) -> str:
        """The models in words."""
        contexts = "one context" if self.contexts == 1 else f"{self.contexts} contexts"
        return f"{self.instances} random restricted models ({self.rows} rows, {contexts})"

    def drawn(self, seed: int) -> tuple[RestrictedModel, Start]:
        """Models and starts of a seed, with a leading axis of instances."""
        each = [self._instance(np.random.default_rng([seed, i])) for i in range(self.instances)]
        models = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(model for model, *_ in each))
        return models, (np.stack([alpha for _, alpha, _ in each]), np.stack([beta for *_, beta in each]))

    def _instance(self, rng: np.random.Generator) -> tuple[RestrictedModel, np.ndarray, np.ndarray]:
        n, v = 4, 6
        # Half of each row is uniform, so that none has next to no variance, whose growth would start after t = 1e9.
        p = 0.5 * rng.dirichlet(np.ones(v), n) + 0.5 / v
        if self.rows == "sparse":
            support = np.repeat([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]], 2, axis=0)
            p *= support[:, rng.permutation(v)]
            p /= p.sum(1, keepdims=True)
        counts = rng.permuted(np.tile(np.arange(1.0, v + 1), (self.contexts, 1)), axis=1)
        if self.contexts > 1:
            counts += 2 * rng.permutation(v)  # or all contexts would have nearly the same mean for every token
        scales = self.scale * rng.uniform(0.5, 1.5, v)
        if self.mean_value == "constant":
            counts, scales = np.full_like(counts, 3.0), np.ones(v)
        alpha = {"drawn": rng.normal(0, 0.3, n), "constant": np.full(n, rng.uniform(-1, 2)), "zero": np.zeros(n)}
        beta = np.full(v, rng.normal()) if self.values == "constant" else rng.normal(size=v)
        return restricted_model(p, rng.uniform(0.1, 0.5, n), counts, scales), alpha[self.logits], beta
