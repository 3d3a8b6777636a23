"""A removed block, against the network that was never given it."""

import jax
import numpy as np

from jaxsink.models import Transformer, TransformerConfig, init
from jaxsink.probing import Set
from jaxsink.tasks import BigramBackcopy, dirichlet
from jaxsink.training.observe import observe
from jaxsink.training.removal import KEPT, block_removals

BLOCKS, T = 3, 8
TASK = BigramBackcopy.make(dirichlet(6, 0.7, 1), 2)


def model_without(block=None, mlp=()):
    attention, mlps = ((), mlp) if block is None else ((block,), tuple(sorted({*mlp, block})))
    config = TransformerConfig(
        n_layers=BLOCKS, n_heads=2, d_model=8, layers_without_attention=attention, layers_without_mlp=mlps
    )
    return Transformer(TASK.vocab_size, T, config)


MODEL = model_without()
PARAMS = jax.jit(lambda key: init(MODEL, key))(jax.random.key(0))
TOKENS = TASK.sample(jax.random.key(1), 6, T)[:, :-1]


def check(found, mlp=()):
    for block in range(BLOCKS):
        model = model_without(block, mlp)
        wanted = jax.jit(lambda p, t, model=model: observe(model, TASK, p, t))(PARAMS, TOKENS)
        for name in KEPT:
            here, there = np.asarray(found[f"removed_{name}"][block]), np.asarray(wanted[name])
            # The network without a block has no attention there that could be measured.
            others = ... if here.ndim == 0 or name == "peak_ratio" else np.arange(BLOCKS) != block
            np.testing.assert_allclose(here[others], there[others], rtol=2e-5, atol=2e-6, err_msg=name)


def test_removing_a_block_is_leaving_it_out():
    found = jax.device_get(jax.jit(lambda p, t: block_removals(MODEL, TASK, p, t))(PARAMS, TOKENS))
    assert set(found) == {f"removed_{name}" for name in KEPT}
    check(found)
    # What a removed block would do is measured, too, and none of it is what the others do.
    assert np.isfinite(found["removed_dlogit"]).all()
    assert len(np.unique(found["removed_bigram"])) == BLOCKS


def test_it_is_the_edited_network_that_is_cut():
    edits = {"blocks.1.mlp_out": Set(0.0)}
    check(jax.jit(lambda p, t: block_removals(MODEL, TASK, p, t, edits))(PARAMS, TOKENS), mlp=(1,))
