"""The study of first tokens gives the norms that whole passages have at their first position."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.studies import checkpoint, first_token, producer_of
from jaxsink.probing import Set, run
from theory.bootstrap import BY_SAMPLE
from theory.checkpoint import FirstToken

SPEC = FirstToken("glassllm", "documentation", 3)


def test_norms_are_those_of_whole_passages(tmp_path: Path) -> None:
    assert producer_of(SPEC) is first_token
    trainer = first_token.Trainer(SPEC, 1)
    product = trainer.run([4], tmp_path, lambda share: None)[0]
    tokens = jnp.asarray(checkpoint.drawn(SPEC.passages(), trainer.loaded, 4))
    names = [f"blocks.{i}.resid_post" for i in range(4)]

    def norms(edits: dict[str, Set]) -> np.ndarray:
        _, found = run(trainer.loaded.model, trainer.loaded.params, tokens, capture=names, edits=edits)
        return np.stack([np.linalg.norm(np.asarray(found[name], np.float64)[:, 0], axis=-1) for name in names], axis=1)

    np.testing.assert_allclose(product.arrays["resid_norm"], norms({}), rtol=1e-4)
    for part, site in (("attention", "attn_out"), ("mlp", "mlp_out")):
        removed = product.arrays[f"without_{part}"]
        assert removed.shape == (3, 4, 4)
        for block in (0, 2):
            expected = norms({f"blocks.{block}.{site}": Set(0.0)})
            np.testing.assert_allclose(removed[:, block], expected, rtol=1e-4)
            assert np.abs(expected[:, block:] / norms({})[:, block:] - 1).max() > 0.01
    assert len(product.manifest["tokens"]) == 3
    assert all(len(product.arrays[name]) == 3 for name in product.manifest[BY_SAMPLE])


def test_an_encoder_has_no_such_first_position() -> None:
    with pytest.raises(ValueError, match="is no decoder"):
        first_token.Trainer(FirstToken("minilm-l6", "documentation", 2), 1)
