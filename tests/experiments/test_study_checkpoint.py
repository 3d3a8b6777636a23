"""The study of a checkpoint measures what full attention maps say, on the passages that its seed draws."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.studies import checkpoint, producer_of
from jaxsink.probing import run
from theory.checkpoint import Passages

SPEC = Passages("glassllm", "documentation", 2, 24)


@pytest.fixture(scope="module")
def trainer() -> checkpoint.Trainer:
    return checkpoint.Trainer(SPEC, 1)


def test_profiles_are_those_of_full_maps(trainer: checkpoint.Trainer, tmp_path: Path) -> None:
    assert producer_of(SPEC) is checkpoint
    shares: list[float] = []
    first, _ = trainer.run([5, 6], tmp_path, shares.append)
    assert shares == [0.5, 0.5]
    loaded = trainer.loaded
    assert loaded.tokenizer is not None
    tokens = checkpoint.drawn(SPEC, loaded.tokenizer, 5)
    names = [f"blocks.{i}.{site}" for i in range(4) for site in ("pattern", "v", "resid_post")]
    _, found = run(loaded.model, loaded.params, jnp.asarray(tokens), capture=names)
    for i in range(4):
        weights = np.asarray(found[f"blocks.{i}.pattern"], np.float64)
        for j in range(24):
            # Over the queries that see the key, all of its heads.
            expected = weights[:, :, j:, j].mean((1, 2))
            np.testing.assert_allclose(first.arrays["received"][:, i, j], expected, rtol=1e-4, atol=1e-6)
        value = np.asarray(found[f"blocks.{i}.v"], np.float64).reshape(2, 24, -1)
        np.testing.assert_allclose(first.arrays["value_norm"][:, i], np.linalg.norm(value, axis=-1), rtol=1e-4)
        resid = np.asarray(found[f"blocks.{i}.resid_post"], np.float64)
        np.testing.assert_allclose(first.arrays["resid_norm"][:, i], np.linalg.norm(resid, axis=-1), rtol=1e-4)
    assert len(first.manifest["tokens"]) == 24
    assert first.manifest["causal"] is True


def test_a_seed_draws_its_own_passages(trainer: checkpoint.Trainer) -> None:
    assert trainer.loaded.tokenizer is not None
    one, same, other = (checkpoint.drawn(SPEC, trainer.loaded.tokenizer, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.5


def test_special_tokens_stand_around_a_passage() -> None:
    spec = Passages("minilm-l6", "documentation", 2, 16)
    tokenizer = checkpoint.Trainer(spec, 1).loaded.tokenizer
    assert tokenizer is not None
    tokens = checkpoint.drawn(spec, tokenizer, 0)
    assert tokens.shape == (2, 16)
    assert (tokens[:, 0] == tokenizer.cls_id).all()
    assert (tokens[:, -1] == tokenizer.sep_id).all()
    bare = checkpoint.drawn(Passages("minilm-l6", "documentation", 2, 16, special=False), tokenizer, 0)
    np.testing.assert_array_equal(bare[:, :14], tokens[:, 1:-1])
