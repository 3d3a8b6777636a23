"""The study of a small language model: what it is trained and measured on, and what it leaves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.studies import producer_of, trajectory
from jaxsink.models import DecoderConfig
from jaxsink.tasks import text
from jaxsink.training import AdamW, seed_keys
from jaxsink.trajectory import follow
from theory.small_language import HELD_OUT, START, VOCABULARY, SmallLanguage

T, PASSAGES = 8, 6
MODEL = DecoderConfig(VOCABULARY, n_layers=1, n_heads=2, n_key_heads=2, head_size=4, d_model=8, d_mlp=12)
# Domains that every installation of Python has; that of prose has to be fetched.
SPEC = SmallLanguage(
    MODEL,
    AdamW(rate=1e-2),
    domains=("documentation", "code"),
    length=T,
    batch=4,
    steps=40,
    chunk_steps=10,
    characters=6_000,
    passages=PASSAGES,
)
SEED = 13


@pytest.fixture(scope="module")
def trainer() -> Any:
    return trajectory.Trainer(SPEC, 1)


@pytest.fixture(scope="module")
def product(trainer: Any, tmp_path_factory: Any) -> Any:
    shares: list[float] = []
    (made,) = trainer.run([SEED], tmp_path_factory.mktemp("partial"), shares.append)
    assert sum(shares) == pytest.approx(1.0)
    return made


def words(codes: np.ndarray) -> str:
    return "".join(map(chr, codes))


def test_sequences_are_pieces_of_their_domain_behind_a_start_token(trainer: Any) -> None:
    documentation, code = trajectory.text(SPEC)
    assert len(documentation) == len(code) == SPEC.characters
    for codes, domain in ((documentation, text.documentation), (code, text.code)):
        passages = "\n".join(domain(2000, 3, 0)).encode("ascii", "replace").decode()
        assert words(codes) == passages[: SPEC.characters]
    batch = np.asarray(trainer.sample(jax.random.key(1)))
    assert batch.shape == (4, T + 1)
    assert (batch[:, 0] == START).all()
    seen = SPEC.characters - SPEC.held_out
    assert SPEC.held_out * HELD_OUT == SPEC.characters
    for row, of in zip(batch, (documentation, documentation, code, code), strict=True):
        assert words(row[1:]) in words(of[:seen])
    passages = np.asarray(trainer.passages(seed_keys(SEED).probe))
    assert passages.shape == (2, PASSAGES, T)
    for rows, of in zip(passages, (documentation, code), strict=True):
        assert (rows[:, 0] == START).all()
        # Each is where a multiple of the length is, so that none overlaps another; and none is trained on.
        slots = [words(of[seen + i * T :][: T - 1]) for i in range(SPEC.held_out // T)]
        assert all(words(row[1:]) in slots for row in rows)


def test_without_a_start_token_the_first_position_has_a_character() -> None:
    bare = replace(SPEC, start=False)
    texts = trajectory.text(bare)
    starts = np.array([[0, 5], [7, 100]])
    cut = np.asarray(trajectory.cut(texts, starts, bare, T))
    for domain, of in enumerate(texts):
        for row, start in zip(cut[domain], starts[domain], strict=True):
            np.testing.assert_array_equal(row, of[start : start + T])


def test_the_product_is_the_trajectory_of_its_checkpoints(trainer: Any, product: Any, tmp_path: Path) -> None:
    arrays = product.arrays
    np.testing.assert_array_equal(arrays["step"], [0, 10, 20, 30, 40])
    assert arrays["sink_mass"].shape == (5, 2, PASSAGES, 1, 2)
    assert (arrays["loss"][-1] < arrays["loss"][0] - 0.5).all()  # from log 128
    # The last point is what a list with the trained model alone gives.
    passages = dict(zip(SPEC.domains, trainer.passages(seed_keys(SEED).probe), strict=True))
    alone = follow([(40, trainer.model, product.params)], passages)
    for name in ("sink_mass", "dlogit", "value_ratio", "resid_norm_start", "loss"):
        np.testing.assert_allclose(alone[name][0], arrays[name][-1], rtol=1e-4, atol=1e-6)
    (again,) = trainer.run([SEED], tmp_path, lambda share: None)
    np.testing.assert_array_equal(again.arrays["sink_mass"], arrays["sink_mass"])
    assert product.manifest["domains"] == ["documentation", "code"]


def test_it_is_the_producer_of_its_kind() -> None:
    assert producer_of(SPEC) is trajectory
    assert trajectory.label(SPEC) == "1 layers on documentation and code, Softmax; d 8, T 8, batch 4, 40 steps"
    assert "no start token" in trajectory.label(replace(SPEC, start=False))
    # Twice the steps are twice the work, but for what is compiled once.
    once, twice, thrice = (trajectory.cost(replace(SPEC, steps=steps)) for steps in (40, 80, 120))
    assert thrice - twice == pytest.approx(twice - once)
    assert twice > once
