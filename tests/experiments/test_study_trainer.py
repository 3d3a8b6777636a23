"""The producer of training runs: what evidence holds, and that a killed run ends as if nothing had happened."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments.studies import bigram_backcopy
from experiments.studies.bigram_backcopy import Product, Trainer
from jaxsink.models import TransformerConfig
from jaxsink.tasks import BigramBackcopy
from jaxsink.training import HoldNorm, HoldValue, TrainConfig, UniformAttention

# Log points, blocks, token ids with <s>, and positions of the tiny run.
P, L, IDS, T = 5, 1, 7, 8
SHAPES = {
    **dict.fromkeys(("step", "loss", "backcopy", "bigram"), (P,)),
    **dict.fromkeys(("attn_start", "attn_start_trigger", "attn_prev_trigger", "dlogit"), (P, L)),
    **dict.fromkeys(("value_norm_start", "value_ratio", "peak_ratio"), (P, L)),
    **dict.fromkeys(("resid_norm_start", "resid_norm_other", "resid_norm_content"), (P, L)),
    **dict.fromkeys(("sink_share", "row_mass", "sink_strength"), (P, L)),
    **dict.fromkeys(("sink_logit_std", "other_logit_std", "sink_logit_mean"), (P, L)),
    "dlogit_by_token": (P, L, IDS),
    "baseline": (),
    **{f"{cut}_{risk}": () for cut in ("no_attention", "no_mlp", "uniform") for risk in ("backcopy", "bigram")},
    **dict.fromkeys(("example_tokens", "example_triggers"), (2, T)),
    **dict.fromkeys(("example_value_norm", "example_resid_norm"), (2, L, T)),
    "example_attention": (2, L, T, T),
    **dict.fromkeys(("attention_by_token", "value_norm_by_token"), (L, IDS)),
    "uniform_by_token": (IDS,),
    "copy_share": (),
    **{f"extracted_{name}": (IDS - 1,) for name in ("share", "alpha", "beta", "mean_b", "limit")},
    **{f"extracted_{name}": () for name in ("alpha_mean", "alpha_spread", "alpha_variation", "keys")},
    **{f"extracted_{name}": () for name in ("cosine", "cosine_b", "drain", "drain_limit", "drain_b")},
    "extracted_values": (IDS - 1, IDS - 1),
}
# A character that is no dormant query of the probe batch, triggers among them, has no sink logit.
WITH_NAN = ("loss", "dlogit_by_token", "extracted_alpha", "extracted_values")


def nothing(share: float) -> None:
    """Hear of progress and do nothing."""


def stop_at(call: int) -> Callable[[float], None]:
    """An advance that is interrupted when it is called for the n-th time: 1 is the start, 2 the point at step 0."""
    calls = 0

    def advance(share: float) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt

    return advance


def assert_equal(products: Sequence[Product], others: Sequence[Product]) -> None:
    for product, other in zip(products, others, strict=True):
        assert set(product.arrays) == set(other.arrays)
        for name, values in product.arrays.items():
            np.testing.assert_array_equal(values, other.arrays[name], err_msg=name)
        jax.tree.map(np.testing.assert_array_equal, product.params, other.params)


@pytest.fixture(scope="module")
def trainer(tiny: ModuleType) -> Trainer:
    return Trainer(tiny.TINY, 1)


@pytest.fixture(scope="module")
def pair(tiny: ModuleType) -> Trainer:
    return Trainer(tiny.TINY, 2)


@pytest.fixture(scope="module")
def whole(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> list[Product]:
    """Seeds 0 and 1, each run by itself without a break."""
    return [trainer.run([seed], tmp_path_factory.mktemp("whole"), nothing)[0] for seed in (0, 1)]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint at every log point."""
    monkeypatch.setattr(bigram_backcopy, "CHECKPOINT_SECONDS", -1.0)


def test_evidence_has_the_documented_arrays(whole: list[Product]) -> None:
    arrays = whole[0].arrays
    assert {name: values.shape for name, values in arrays.items()} == SHAPES
    np.testing.assert_array_equal(arrays["step"], [0, 10, 20, 30, 40])
    # Nothing is trained before step 0, and <s> is never an ordinary query.
    assert np.isnan(arrays["loss"]).tolist() == [True, False, False, False, False]
    assert np.isnan(arrays["dlogit_by_token"][..., -1]).all()
    assert [name for name in SHAPES if name not in WITH_NAN and not np.isfinite(arrays[name]).all()] == []
    assert arrays["example_triggers"].dtype == bool
    assert arrays["example_triggers"].any(axis=1).tolist() == [True, False]
    # Rows of weights, summed in float32.
    np.testing.assert_allclose(arrays["example_attention"].sum(-1), 1, atol=1e-6)
    assert arrays["loss"][-1] < arrays["loss"][1]


def test_several_blocks_have_gradients_and_removals(tiny: ModuleType, tmp_path: Path) -> None:
    spec = replace(tiny.TINY, model=replace(tiny.TINY.model, n_layers=2), steps=10)
    (product,) = Trainer(spec, 1).run([0], tmp_path, nothing)
    more = {name: values.shape for name, values in product.arrays.items() if name not in SHAPES}
    vectors = [f"{what}_{where}" for what in ("gradient", "residual") for where in ("start", "content")]
    assert more == {
        **dict.fromkeys(vectors, (2, 8)),
        **{f"{name}_image": (2, 2) for name in vectors},
        **{f"removed_{name}": (2, 2) for name in ("peak_ratio", "dlogit", "value_ratio", "attn_start")},
        **dict.fromkeys(("removed_backcopy", "removed_bigram"), (2,)),
    }


def test_manifest_has_what_reader_and_figures_need(tiny: ModuleType, whole: list[Product]) -> None:
    manifest = whole[1].manifest
    assert manifest["tokens"] == ["0", "1", "2", "3", "4", "5", "<s>"]
    task = tiny.TINY.task
    assert tuple(manifest["triggers"]) == BigramBackcopy.make(task.chain.build(), task.n_triggers).triggers
    assert manifest["grouped_seeds"] == [1]
    assert manifest["seconds"] > 0
    for part in ("1 layer", "Softmax", "AdamW 0.003", "d 8", "T 8", "batch 4", "40 steps"):
        assert part in manifest["label"]


def test_a_label_says_which_parts_are_left_out() -> None:
    run = TrainConfig(model=TransformerConfig(n_layers=3, layers_without_attention=(0, 2), layers_without_mlp=(1,)))
    words = "3 layers, blocks 0 and 2 without attention, block 1 without MLP, Softmax, "
    assert bigram_backcopy.label(run).startswith(words)


def test_seeds_differ_and_the_same_seed_does_not(trainer: Trainer, whole: list[Product], tmp_path: Path) -> None:
    assert_equal(trainer.run([0], tmp_path, nothing), whole[:1])
    assert not np.array_equal(whole[0].arrays["backcopy"], whole[1].arrays["backcopy"])


@pytest.mark.usefixtures("often")
def test_a_run_with_interventions_is_measured_with_them_and_can_be_killed(tiny: ModuleType, tmp_path: Path) -> None:
    given = (UniformAttention(from_step=20), HoldNorm("blocks.0.v", from_step=10), HoldValue("blocks.0.attn_out"))
    cut = Trainer(replace(tiny.TINY, interventions=given), 1)
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    for folder in (broken, unbroken):
        folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        cut.run([0], broken, stop_at(5))
    (product,) = cut.run([0], unbroken, nothing)
    assert_equal(cut.run([0], broken, nothing), [product])
    even = np.isclose(product.arrays["attn_start"][:, 0], product.arrays["baseline"], rtol=1e-5)
    assert even.tolist() == [False, False, True, True, True]
    weights = product.arrays["example_attention"][:, 0, :, 0]
    np.testing.assert_allclose(weights, np.broadcast_to(1 / np.arange(1, T + 1), weights.shape), rtol=1e-6)
    told = product.manifest["label"]
    for words in (
        "attention of block 0 to position 0 even from step 20",
        "norm of blocks.0.v at position 0 held from step 10",
        "blocks.0.attn_out at position 0 held from step 0; ",
    ):
        assert f", {words}" in told


def test_progress_adds_up(trainer: Trainer, tmp_path: Path) -> None:
    shares: list[float] = []
    trainer.run([0], tmp_path, shares.append)
    assert shares == pytest.approx([0, 0, 0.25, 0.25, 0.25, 0.25])


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5, 6])
@pytest.mark.usefixtures("often")
def test_a_killed_run_ends_as_if_nothing_had_happened(
    trainer: Trainer, whole: list[Product], tmp_path: Path, call: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer.run([0], tmp_path, stop_at(call))
    shares: list[float] = []
    resumed = trainer.run([0], tmp_path, shares.append)
    assert_equal(resumed, whole[:1])
    assert sum(shares) == pytest.approx(1)
    # What was done before the kill is not done again: the interrupted point is never saved, nor is step 0.
    assert shares[0] == pytest.approx(max(0, 10 * (call - 3)) / 40)


@pytest.mark.usefixtures("often")
def test_a_run_may_be_killed_again_and_again(trainer: Trainer, whole: list[Product], tmp_path: Path) -> None:
    # Each time one point further: steps 10, 20 and 20 are saved.
    for call in (4, 3, 2):
        with pytest.raises(KeyboardInterrupt):
            trainer.run([0], tmp_path, stop_at(call))
    assert_equal(trainer.run([0], tmp_path, nothing), whole[:1])


def test_without_a_checkpoint_a_run_starts_afresh(trainer: Trainer, whole: list[Product], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer.run([0], tmp_path, stop_at(4))
    assert list(tmp_path.iterdir()) == []  # the tiny run ends long before its first checkpoint is due
    assert_equal(trainer.run([0], tmp_path, nothing), whole[:1])


@pytest.mark.usefixtures("often")
def test_curves_beyond_the_state_are_cut(trainer: Trainer, whole: list[Product], tmp_path: Path) -> None:
    state, curves = (tmp_path / f"{name}-0.safetensors" for name in ("state", "curves"))
    with pytest.raises(KeyboardInterrupt):
        trainer.run([0], tmp_path, stop_at(4))
    early = shutil.copy(state, tmp_path / "early")
    with pytest.raises(KeyboardInterrupt):
        trainer.run([0], tmp_path, stop_at(4))
    shutil.move(early, state)
    later = load_file(curves)
    assert later["step"][-1] == 30
    # Were they not cut, this would show.
    later["loss"][later["step"] > 10] = 99
    save_file(later, curves)
    assert_equal(trainer.run([0], tmp_path, nothing), whole[:1])


@pytest.mark.usefixtures("often")
def test_seconds_count_from_the_first_start(trainer: Trainer, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer.run([0], tmp_path, stop_at(4))
    (curves,) = tmp_path.glob("curves-*")
    save_file({**load_file(curves), "seconds": np.array([1000.0])}, curves)
    (product,) = trainer.run([0], tmp_path, nothing)
    assert 1000 < product.manifest["seconds"] < 1100
    assert "seconds" not in product.arrays


@pytest.mark.usefixtures("often")
def test_a_checkpoint_of_another_run_is_refused(trainer: Trainer, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer.run([0], tmp_path, stop_at(4))
    state = tmp_path / "state-0.safetensors"
    save_file({"other": np.zeros(3)}, state)
    with pytest.raises(ValueError, match=r"does not fit the run .* delete it"):
        trainer.run([0], tmp_path, nothing)
    state.write_bytes(state.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"not a whole checkpoint .* delete it"):
        trainer.run([0], tmp_path, nothing)


def test_a_group_equals_its_seeds_one_by_one(pair: Trainer, whole: list[Product], tmp_path: Path) -> None:
    grouped = pair.run([0, 1], tmp_path, nothing)
    for product, alone in zip(grouped, whole, strict=True):
        assert product.manifest["grouped_seeds"] == [0, 1]
        assert {name: values.shape for name, values in product.arrays.items()} == SHAPES
        for name, values in alone.arrays.items():
            # vmap reorders float32 sums: 1e-6 was seen after 40 steps, which leaves other processors a factor of ten.
            np.testing.assert_allclose(product.arrays[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), product.params, alone.params)
    # Half the time of the group each: the sum over its seeds is what it took.
    assert grouped[0].manifest["seconds"] == grouped[1].manifest["seconds"]


@pytest.mark.usefixtures("often")
def test_a_killed_group_ends_as_if_nothing_had_happened(pair: Trainer, tmp_path: Path) -> None:
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    for folder in (broken, unbroken):
        folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        pair.run([0, 1], broken, stop_at(4))
    # Named by the whole group, so that no other group takes them for its own.
    assert sorted(path.name for path in broken.iterdir()) == ["curves-0-1.safetensors", "state-0-1.safetensors"]
    assert_equal(pair.run([0, 1], broken, nothing), pair.run([0, 1], unbroken, nothing))
