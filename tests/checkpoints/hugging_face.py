"""Random models that transformers writes as folders, what it computes with them, and the same folders loaded here."""

import copy
import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxsink.checkpoints import open_safetensors
from jaxsink.checkpoints.families import family_of
from jaxsink.models import Decoder
from jaxsink.probing import gradients, run, sites

# Ours may be off by this many times what transformers itself is in float32: other orders of the same sums.
TIMES_THE_FLOOR = 10

_DECODER_HEAD = {
    "embed": ("model.embed_tokens", "out"),
    "final_norm": ("model.norm", "out"),
    "logits": ("lm_head", "out"),
}
_DECODER_BLOCK = {
    "resid_pre": ("", "in"),
    "q": ("self_attn.q_proj", "out"),
    "k": ("self_attn.k_proj", "out"),
    "v": ("self_attn.v_proj", "out"),
    "pattern": ("self_attn", "second"),
    "z": ("self_attn.o_proj", "in"),
    "attn_out": ("self_attn", "out"),
    "resid_mid": ("post_attention_layernorm", "in"),
    "mlp_pre": ("mlp.gate_proj", "out"),
    "mlp_pre_linear": ("mlp.up_proj", "out"),
    "mlp_post": ("mlp.down_proj", "in"),
    "mlp_out": ("mlp", "out"),
    "resid_post": ("", "out"),
}
_ENCODER_HEAD = {
    "embed": ("embeddings.word_embeddings", "out"),
    "pos_embed": ("embeddings.position_embeddings", "out"),
    "type_embed": ("embeddings.token_type_embeddings", "out"),
    "pooled": ("pooler", "out"),
    "logits": ("cls.predictions", "out"),
}
_ENCODER_BLOCK = {
    "resid_pre": ("", "in"),
    "q": ("attention.self.query", "out"),
    "k": ("attention.self.key", "out"),
    "v": ("attention.self.value", "out"),
    "pattern": ("attention.self", "second"),
    "z": ("attention.self", "out"),
    "attn_out": ("attention.output.dense", "out"),
    "resid_mid": ("attention.output", "out"),
    "mlp_pre": ("intermediate.dense", "out"),
    "mlp_post": ("intermediate", "out"),
    "mlp_out": ("output.dense", "out"),
    "resid_post": ("output", "out"),
}


def written(folder, kind, config, seed=0):
    """A model of transformers with activations of order one, and residual streams small enough to feel an epsilon."""
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(float("norm" in name.lower() and name.endswith("weight")), 0.2)
            else:
                parameter.normal_(0.0, 0.1 if "embed" in name else 1 / math.sqrt(parameter.shape[1]))
    model.save_pretrained(folder)
    return model


def loaded(folder):
    """(model, params) of this package from a folder."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    family = family_of(config)
    with open_safetensors(folder) as source:
        found = family.config(config, source.names())
        return family.model(found), family.import_params(source, found)


def _modules(model, config):
    """Of which module of transformers each site is the input or the output."""
    is_decoder = type(config).__name__ == "DecoderConfig"
    head, block = (_DECODER_HEAD, _DECODER_BLOCK) if is_decoder else (_ENCODER_HEAD, _ENCODER_BLOCK)
    prefix = "model.layers" if is_decoder else "encoder.layer"
    known = dict(model.named_modules())
    where = dict(head)
    for i in range(config.n_layers):
        where |= {
            f"blocks.{i}.{site}": (f"{prefix}.{i}.{name}".rstrip("."), what) for site, (name, what) in block.items()
        }
    found = {}
    for site, (name, what) in where.items():
        for path in (name, f"bert.{name}"):
            if path in known:
                found[site] = (known[path], what)
    return found


def theirs(model, config, batch, cotangent, table, only=None):
    """By name of site what transformers computes, with "output" and "gradient" of its sum with the cotangent."""
    seen, handles, embedded = {}, [], []
    tokens = batch["input_ids"].shape[1]
    for site, (module, what) in _modules(model, config).items():

        def hook(module, inputs, keywords, output, site=site, what=what):
            first = inputs[0] if inputs else next(iter(keywords.values()))
            several = output if isinstance(output, tuple) else (output, None)
            if site == "embed":
                output.retain_grad()
                embedded.append(output)
            seen[site] = {"in": first, "out": several[0], "second": several[1]}[what]

        if only is None or site in only or site == "embed":
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
    arguments = {name: torch.tensor(value) for name, value in batch.items()}
    if "attention_mask" in batch and type(config).__name__ == "DecoderConfig" and model.dtype == torch.float64:
        # Its own mask holds the least float64, which its softmax casts to float32, so that a row of padding is NaN.
        visible = np.tril(batch["attention_mask"][:, None, None] == np.ones((1, 1, tokens, 1)))
        arguments["attention_mask"] = torch.tensor(np.where(visible, 0.0, -1e30))
    result = model(**arguments, output_attentions=True)
    for handle in handles:
        handle.remove()
    assert len(result.attentions) == config.n_layers
    found = next(result[name] for name in ("logits", "prediction_logits", "last_hidden_state") if name in result)
    (found * torch.tensor(cotangent, dtype=found.dtype)).sum().backward()
    values = {
        site: np.broadcast_to(value.detach().numpy(), table[site].shape)
        if site == "pos_embed"
        else value.detach().numpy().reshape(table[site].shape)
        for site, value in seen.items()
        if only is None or site in only
    }
    gradient = embedded[0].grad.numpy().copy()
    model.zero_grad(set_to_none=True)
    return values | {"output": found.detach().numpy(), "gradient": gradient}


def ours(model, params, batch, cotangent, names):
    """The same of this package."""
    inputs = {
        ours: jnp.asarray(batch[name])
        for name, ours in (("position_ids", "positions"), ("token_type_ids", "token_types"))
        if name in batch
    }
    if "attention_mask" in batch:
        inputs["valid"] = jnp.asarray(batch["attention_mask"] == 1)
    tokens = jnp.asarray(batch["input_ids"])

    def product(output, captured):
        return (output * cotangent).sum()

    # Hardly optimised, because compiling takes longer than running.
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def both(params, tokens, inputs):
        output, captured = run(model, params, tokens, capture=names, inputs=inputs)
        _, gradient = gradients(product, model, params, tokens, ["embed"], inputs=inputs)
        return captured | {"output": output, "gradient": gradient["embed"]}

    return {name: np.asarray(value) for name, value in both(params, tokens, inputs).items()}


def at_real_tokens(values, table, valid):
    """The same with zeros at padding, where nothing is promised."""
    axes = {name: site.axes for name, site in table.items()} | {"output": "BTV", "gradient": "BTD"}
    kept = {}
    for name, value in values.items():
        if name == "pooled":  # of the first token, be it padding
            value = np.where(valid[:, :1], value, 0)
        for letter in "TS":
            if letter in axes[name]:
                shape = [n if along in ("B", letter) else 1 for along, n in zip(axes[name], value.shape, strict=True)]
                value = np.where(valid.reshape(shape), value, 0)
        kept[name] = value
    return kept


class Comparison:
    """What transformers computes in float32 and in float64 on one batch; the difference of the two is the floor.

    Attributes:
      model, params: of this package, from the folder. names: the sites compared.
    """

    def __init__(self, folder, kind, config, batch, only=None):
        reference = written(folder, kind, config)
        self.model, self.params = loaded(folder)
        self.batch = batch
        shape = batch["input_ids"].shape
        self.valid = batch.get("attention_mask", np.ones(shape, int)) == 1
        self.table = sites(self.model, *shape)
        size = self.model.config.d_model
        if isinstance(self.model, Decoder) or self.model.config.mlm_head:
            size = self.model.config.vocab_size
        cotangent = np.random.default_rng(1).normal(size=(*shape, size)).astype(np.float32)
        self.cotangent = cotangent * self.valid[:, :, None]
        arguments = (self.model.config, batch, self.cotangent, self.table, only)
        self.low = self.kept(theirs(reference, *arguments))
        # In place, so that one model of full width is in memory at a time.
        self.high = self.kept(theirs(reference.double(), *arguments))
        self.names = sorted(set(self.high) - {"output", "gradient"})

    def kept(self, values):
        return at_real_tokens(values, self.table, self.valid)

    def found(self, model=None, params=None):
        model, params = self.model if model is None else model, self.params if params is None else params
        return self.kept(ours(model, params, self.batch, self.cotangent, self.names))

    def beyond(self, found):
        """What is further from float64 than `TIMES_THE_FLOOR` times float32 is: {name: (distance, floor)}."""
        assert set(found) == set(self.high)
        distances = {name: np.abs(value - self.high[name]).max() for name, value in found.items()}
        floors = {name: np.abs(self.low[name] - self.high[name]).max() for name in found}
        return {name: (d, floors[name]) for name, d in distances.items() if not d <= TIMES_THE_FLOOR * floors[name]}
