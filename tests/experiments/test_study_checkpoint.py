"""The study of a checkpoint measures what full attention maps say, on the passages that its seed draws."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.studies import checkpoint, producer_of
from experiments.studies.key_geometry import key_geometry
from jaxsink.probing import run
from theory.bootstrap import BY_SAMPLE
from theory.checkpoint import COMPARED, MaskControl, Passages, PositionControl

SPEC = Passages("glassllm", "documentation", 2, 24)


@pytest.fixture(scope="module")
def trainer() -> checkpoint.Trainer:
    return checkpoint.Trainer(SPEC, 1)


def value_heads(found: dict[str, jnp.ndarray], layer: int) -> int:
    return found[f"blocks.{layer}.v"].shape[2]


def test_profiles_are_those_of_full_maps(trainer: checkpoint.Trainer, tmp_path: Path) -> None:
    assert producer_of(SPEC) is checkpoint
    shares: list[float] = []
    first, _ = trainer.run([5, 6], tmp_path, shares.append)
    assert shares == [0.5, 0.5]
    loaded = trainer.loaded
    assert loaded.tokenizer is not None
    tokens = checkpoint.drawn(SPEC, loaded, 5)
    names = [f"blocks.{i}.{site}" for i in range(4) for site in ("pattern", "v", "z", "resid_post")]
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
        entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1)[:, :, 1:].mean(-1)
        np.testing.assert_allclose(first.arrays["entropy_by_head"][:, i], entropy, rtol=1e-4)
        outputs = np.asarray(found[f"blocks.{i}.z"], np.float64)
        heads = np.asarray(found[f"blocks.{i}.v"], np.float64).repeat(weights.shape[1] // value_heads(found, i), 2)
        for c, key in enumerate(COMPARED):
            # Queries that see the key, without itself.
            weight = weights[:, :, key + 1 :, key].mean(2)
            np.testing.assert_allclose(first.arrays["compared_weight"][:, i, c], weight.mean(1), rtol=1e-4)
            written = np.linalg.norm(outputs[:, key + 1 :], axis=-1).mean(1)
            share = (weight * np.linalg.norm(heads[:, key], axis=-1) / written).mean(1)
            np.testing.assert_allclose(first.arrays["compared_share"][:, i, c], share, rtol=1e-3)
    assert len(first.manifest["tokens"]) == 24
    assert first.manifest["causal"] is True


def test_the_geometry_of_keys_is_that_of_loops() -> None:
    rng = np.random.default_rng(0)
    b, t, n, k, h, compared = 2, 8, 4, 2, 3, (0, 2)
    queries, keys = rng.normal(size=(b, t, n, h)), rng.normal(size=(b, t, k, h))
    heads = keys.repeat(n // k, 2)
    scores = np.einsum("bqnh,bknh->bnqk", queries, heads) / np.sqrt(h)
    where = np.arange(t)[None, :] > np.array(compared)[:, None]
    given = [jnp.asarray(x, jnp.float32) for x in (scores, queries, keys)]
    found = key_geometry(*given, jnp.asarray(where), compared)
    for head in range(n):
        for c, key in enumerate(compared):
            logits = [scores[i, head, q, key] for i in range(b) for q in range(key + 1, t)]
            np.testing.assert_allclose(found["logit_std"][head, c], np.std(logits), rtol=1e-4)
            cosines = [cosine(queries[i, q, head], heads[i, key, head]) for i in range(b) for q in range(key + 1, t)]
            np.testing.assert_allclose(found["query_cosine"][head, c], np.mean(cosines), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(found["query_aligned"][head, c], np.mean(np.array(cosines) > 0), rtol=1e-6)
            among = [cosine(heads[i, key, head], heads[i, j, head]) for i in range(b) for j in range(t) if j != key]
            np.testing.assert_allclose(found["key_cosine"][head, c], np.mean(among), rtol=1e-4, atol=1e-6)
        others = [scores[i, head, q, j] for i in range(b) for q in range(2, t) for j in range(1, q)]
        np.testing.assert_allclose(found["logit_std"][head, -1], np.std(others), rtol=1e-4)


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def test_a_seed_draws_its_own_passages(trainer: checkpoint.Trainer) -> None:
    one, same, other = (checkpoint.drawn(SPEC, trainer.loaded, seed) for seed in (1, 1, 3))
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.5


def test_special_tokens_stand_around_a_passage() -> None:
    spec = Passages("minilm-l6", "documentation", 2, 24)
    loaded = checkpoint.Trainer(spec, 1).loaded
    tokenizer = loaded.tokenizer
    assert tokenizer is not None
    tokens = checkpoint.drawn(spec, loaded, 0)
    assert tokens.shape == (2, 24)
    assert (tokens[:, 0] == tokenizer.cls_id).all()
    assert (tokens[:, -1] == tokenizer.sep_id).all()
    bare = checkpoint.drawn(Passages("minilm-l6", "documentation", 2, 24, special=False), loaded, 0)
    np.testing.assert_array_equal(bare[:, :22], tokens[:, 1:-1])


def measured(spec: Passages, tmp_path: Path) -> dict[str, np.ndarray]:
    other = checkpoint.Trainer(spec, 1)
    return other.run([5], tmp_path, lambda share: None)[0].arrays


def test_a_control_of_the_mask_begins_where_it_says(trainer: checkpoint.Trainer, tmp_path: Path) -> None:
    free = trainer.run([5], tmp_path, lambda share: None)[0].arrays
    alone = measured(replace(SPEC, control=MaskControl("itself", (9,), first_layer=2)), tmp_path)
    np.testing.assert_allclose(alone["resid_norm"][:, :2], free["resid_norm"][:, :2], rtol=1e-4)
    np.testing.assert_allclose(alone["resid_norm"][:, 2, :9], free["resid_norm"][:, 2, :9], rtol=1e-4)
    assert np.abs(alone["resid_norm"][:, 2, 9] / free["resid_norm"][:, 2, 9] - 1).min() > 0.001
    # Others see the token as before; a hidden column they do not.
    np.testing.assert_allclose(alone["received"][:, 0], free["received"][:, 0], rtol=1e-3, atol=1e-6)
    hidden = measured(replace(SPEC, control=MaskControl(rows=(9,), column=True)), tmp_path)
    # Its own query alone has weight on it: one of the fifteen that could see it.
    assert (hidden["received"][:, :, 9] <= 1 / 15 + 1e-6).all()
    opened = measured(replace(SPEC, control=MaskControl("all", (0,))), tmp_path)
    assert np.abs(opened["resid_norm"][:, 0, 0] / free["resid_norm"][:, 0, 0] - 1).min() > 0.001


def test_a_control_of_positions_rotates_the_token_otherwise(trainer: checkpoint.Trainer, tmp_path: Path) -> None:
    moved = measured(replace(SPEC, control=PositionControl("first", (9,))), tmp_path)
    positions = jnp.arange(24).at[9].set(0)
    tokens = jnp.asarray(checkpoint.drawn(SPEC, trainer.loaded, 5))
    names = ["blocks.2.pattern"]
    _, found = run(trainer.loaded.model, trainer.loaded.params, tokens, capture=names, inputs={"positions": positions})
    weights = np.asarray(found["blocks.2.pattern"], np.float64)
    expected = np.stack([weights[:, :, j:, j].mean((1, 2)) for j in range(24)], axis=-1)
    np.testing.assert_allclose(moved["received"][:, 2], expected, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="rotates positions"):
        checkpoint.Trainer(replace(SPEC, control=PositionControl("mean", (9,))), 1)


def test_an_encoder_s_token_gets_another_position_s_vector(tmp_path: Path) -> None:
    spec = Passages("minilm-l6", "documentation", 2, 24, special=False, control=PositionControl("first", (9,)))
    other = checkpoint.Trainer(spec, 1)
    found = other.run([5], tmp_path, lambda share: None)[0]
    assert found.manifest["rows"] == [9]
    tokens = jnp.asarray(checkpoint.drawn(spec, other.loaded, 5))
    positions = jnp.arange(24).at[9].set(0)
    names = ["blocks.3.resid_post"]
    _, wanted = run(other.loaded.model, other.loaded.params, tokens, capture=names, inputs={"positions": positions})
    norms = np.linalg.norm(np.asarray(wanted["blocks.3.resid_post"], np.float64), axis=-1)
    np.testing.assert_allclose(found.arrays["resid_norm"][:, 3], norms, rtol=1e-4)


def test_made_up_texts(trainer: checkpoint.Trainer) -> None:
    random, repeated = (
        checkpoint.drawn(replace(SPEC, domain=domain), trainer.loaded, 5) for domain in ("random", "repeated")
    )
    assert (repeated == repeated[:, :1]).all()
    assert (random[:, 1:] != random[:, :-1]).mean() > 0.8


def test_a_passage_stands_behind_the_token_that_begins_a_text(trainer: checkpoint.Trainer) -> None:
    tokenizer = trainer.loaded.tokenizer
    assert tokenizer is not None
    without, begun = (checkpoint.drawn(replace(SPEC, bos=bos), trainer.loaded, 5) for bos in (False, True))
    assert (begun[:, 0] == tokenizer.bos_id).all()
    np.testing.assert_array_equal(begun[:, 1:], without[:, :-1])
    spec = Passages("minilm-l6", "documentation", 2, 24, bos=True)
    with pytest.raises(ValueError, match="'minilm-l6' has no token that begins a text; leave out bos"):
        checkpoint.drawn(spec, checkpoint.loaded("minilm-l6"), 0)


def test_what_is_not_measured_by_head_is_measured_alike(trainer: checkpoint.Trainer, tmp_path: Path) -> None:
    product = checkpoint.Trainer(replace(SPEC, by_head=False), 1).run([5], tmp_path, lambda share: None)[0]
    whole = trainer.run([5], tmp_path, lambda share: None)[0]
    assert set(product.arrays) == {"received", "value_norm", "resid_norm"} == set(product.manifest[BY_SAMPLE])
    assert set(whole.manifest[BY_SAMPLE]) == set(product.arrays) | {"compared_weight", "compared_share"}
    for name, values in product.arrays.items():
        np.testing.assert_allclose(values, whole.arrays[name], rtol=1e-5)
        assert len(values) == SPEC.count
