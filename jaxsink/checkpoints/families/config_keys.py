"""Hugging Face's config.json: what is read, what must have one value, what says nothing about the computation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from jaxsink.checkpoints.source import CheckpointError

# Of every family: names, tokens, training, and how results are handed out.
IRRELEVANT = frozenset(
    {
        "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures",
        "attention_dropout", "attention_probs_dropout_prob", "bos_token_id", "classifier_dropout", "dtype",
        "eos_token_id", "finetuning_task", "gradient_checkpointing", "hidden_dropout_prob", "id2label",
        "initializer_range", "label2id", "max_window_layers", "model_type", "output_attentions",
        "output_hidden_states", "output_past", "pad_token_id", "pretraining_tp", "problem_type", "return_dict",
        "sep_token_id", "task_specific_params", "tokenizer_class", "torch_dtype", "torchscript", "transformers_version",
        "use_cache",
    }
)  # fmt: skip


def check_keys(
    config: Mapping[str, Any],
    *,
    read: Collection[str],
    fixed: Mapping[str, tuple[Any, ...]],
    irrelevant: Collection[str] = (),
) -> None:
    """Check that nothing in a configuration goes unheard.

    Args:
      config: of config.json.
      read: keys that become part of the configuration here.
      fixed: keys that may stand there with these values alone, because nothing else is implemented.
      irrelevant: keys that say nothing about the computation, besides `IRRELEVANT`.

    Raises:
      CheckpointError: a key is unknown, or has a value that is not implemented.
    """
    for key, value in config.items():
        if key in fixed:
            if value not in fixed[key]:
                allowed = " or ".join(repr(option) for option in fixed[key])
                raise CheckpointError(
                    f"the configuration has {key} = {value!r}, but only {allowed} is implemented: load another model."
                )
        elif key not in read and key not in irrelevant and key not in IRRELEVANT:
            raise CheckpointError(
                f"the configuration has the key {key!r} = {value!r}, of which it is not known what it changes: "
                "remove it if it says nothing about the computation, or load another model."
            )


def required(config: Mapping[str, Any], key: str) -> Any:
    """The value of a key.

    Raises:
      CheckpointError: it is absent.
    """
    if config.get(key) is None:
        raise CheckpointError(f"the configuration lacks the key {key!r}: give the whole config.json of the model.")
    return config[key]


def architecture(config: Mapping[str, Any], tensors: Collection[str] = ()) -> str:
    """The name of the model's class, or the type of the model where no class is named.

    Args:
      config: of config.json.
      tensors: their names; where the configuration says neither, as those of 2019 did, a model inside of another, such
        as "bert." inside of one with a head, tells the type.

    Raises:
      CheckpointError: neither is there, or there are several classes.
    """
    unnamed = not config.get("architectures") and config.get("model_type") is None
    if unnamed and any(name.startswith("bert.") for name in tensors):
        return "bert"
    names = config.get("architectures") or [required(config, "model_type")]
    if not isinstance(names, list | tuple) or len(names) != 1:
        raise CheckpointError(f"the configuration must name one architecture, but has {names!r}: leave one of them.")
    return str(names[0])
