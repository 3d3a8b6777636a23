"""Families of checkpoints: configurations and names of tensors, both ways."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxsink.checkpoints.families import bert, llama
from jaxsink.checkpoints.families.config_keys import architecture
from jaxsink.checkpoints.source import CheckpointError
from jaxsink.models import Decoder, Encoder, Model


@dataclass(frozen=True)
class Family:
    """What a checkpoint needs to become a model, and a model to become a checkpoint.

    Attributes:
      architectures: as config.json names them, and its model_type.
      config: from config.json and the names of the tensors to the configuration of the model.
      model: from that configuration to the model.
      import_params: see `llama.import_params`.
      export_tensors: see `llama.export_tensors`.
    """

    architectures: tuple[str, ...]
    config: Callable[[Mapping[str, Any], Collection[str]], Any]
    model: Callable[[Any], Model]
    import_params: Callable[..., dict[str, Any]]
    export_tensors: Callable[[Mapping[str, Any], Any], dict[str, np.ndarray]]


FAMILIES = (
    Family(
        llama.ARCHITECTURES,
        lambda config, names: llama.decoder_config(config),
        Decoder,
        llama.import_params,
        llama.export_tensors,
    ),
    Family(bert.ARCHITECTURES, bert.encoder_config, Encoder, bert.import_params, bert.export_tensors),
)


def family_of(config: Mapping[str, Any], tensors: Collection[str] = ()) -> Family:
    """The family of the architecture that a config.json names, or the names of the tensors where it does not.

    Raises:
      CheckpointError: there is none.
    """
    kind = architecture(config, tensors)
    for family in FAMILIES:
        if kind in family.architectures:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.architectures)
    raise CheckpointError(f"the architecture {kind!r} is none of {known}: load another model.")


__all__ = ["FAMILIES", "Family", "family_of"]
