"""A model, its parameters and its tokenizer by one name: of the catalogue, a file, a folder, or a Hugging Face id."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxsink.checkpoints.catalogue import CATALOGUE
from jaxsink.checkpoints.families import family_of, llama
from jaxsink.checkpoints.families.tables import Place
from jaxsink.checkpoints.fetch import fetch
from jaxsink.checkpoints.gguf_file import open_gguf
from jaxsink.checkpoints.json_file import read_json_object
from jaxsink.checkpoints.npz_file import open_npz
from jaxsink.checkpoints.safetensors_file import open_safetensors
from jaxsink.checkpoints.source import CheckpointError
from jaxsink.checkpoints.tokenizer import (
    GGUF_KIND,
    Tokenizer,
    gguf_kind,
    tokenizer_from_gguf,
    tokenizer_from_json,
    tokenizer_of_glassllm,
)
from jaxsink.models import Decoder, Encoder
from jaxsink.models.config_checks import ActivationDtype


@dataclass(frozen=True, eq=False)
class Loaded:
    """A checkpoint, ready to run: `model.apply({"params": params}, tokens)`.

    Attributes:
      name: what it was asked for by. where: the file or folder that it came from.
      model, params: see `jaxsink.models`.
      tokenizer: None where the checkpoint has none, where it has no more than a list of words (vocab.txt of rxnfp-bert
        and antiberty, beside the weights), or a GGUF file without a tokenizer.json describes one of another kind than
        is rebuilt here.
    """

    name: str
    where: Path
    model: Decoder | Encoder
    params: dict[str, Any]
    tokenizer: Tokenizer | None


def load(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: ActivationDtype = "float32",
    place: Place | None = None,
    cache: Path | None = None,
    offline: bool = False,
    progress: Callable[[int], None] = lambda count: None,
) -> Loaded:
    """Load a checkpoint. Tensors are read one at a time, each placed before the next is read.

    Args:
      name_or_path: a name of the catalogue (`jaxsink fetch` lists it), a folder with config.json and safetensors, a
        file (.gguf, .safetensors beside its config.json, .npz of glassllm), or a Hugging Face id "owner/name", which
        needs the extra `hub`.
      dtype: of activations and of parameters.
      place: from the path of a parameter and its array, which is in the checkpoint's own dtype, to what stands in
        `params`, to shard it perhaps; None casts it to `dtype` on the default device.
      cache, offline, progress: as for `fetch`.

    Raises:
      CheckpointError: there is no such checkpoint, or it cannot be read as it stands.
    """
    if dtype not in get_args(ActivationDtype):
        raise ValueError(f"dtype must be one of {', '.join(get_args(ActivationDtype))}, but {dtype!r} was given.")
    name, path = os.fspath(name_or_path), Path(name_or_path)
    if path.exists():
        found = path
    elif any(asset.name == name and asset.format != "text" for asset in CATALOGUE):
        found = fetch(name, cache=cache, offline=offline, progress=progress)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not path.parent.exists():
        found = _from_hub(name, offline)
    else:
        weights = [asset.name for asset in CATALOGUE if asset.format != "text"]
        near = difflib.get_close_matches(name, weights, n=1, cutoff=0.0)[0]
        raise CheckpointError(
            f"{name!r} is no file, no folder, no Hugging Face id and no name of the catalogue; the nearest name is "
            f"{near!r} (list: jaxsink fetch)."
        )

    def cast_to_dtype(_: tuple[str, ...], parameter: np.ndarray) -> jax.Array:
        return jnp.asarray(parameter).astype(dtype)

    into = cast_to_dtype if place is None else place
    if found.suffix == ".gguf":
        model, params, tokenizer = _gguf(found, dtype, into)
    elif found.suffix == ".npz":
        model, params, tokenizer = _glassllm(found, dtype, into)
    else:
        model, params, tokenizer = _hugging_face(found, dtype, into)
    return Loaded(name, found, model, params, tokenizer)


Parts = tuple[Decoder | Encoder, dict[str, Any], Tokenizer | None]


def _hugging_face(path: Path, dtype: ActivationDtype, place: Place) -> Parts:
    folder = path if path.is_dir() else path.parent
    description = folder / "config.json"
    if not description.is_file():
        raise CheckpointError(f"{folder} has no config.json, which says what {path.name} is: put it there.")
    config = read_json_object(description)
    with open_safetensors(path) as source:
        family = family_of(config, source.names())
        ours = replace(family.config(config, source.names()), dtype=dtype)
        params = family.import_params(source, ours, place=place)
    words = folder / "tokenizer.json"
    return _deep(family.model(ours)), params, tokenizer_from_json(words) if words.is_file() else None


def _gguf(path: Path, dtype: ActivationDtype, place: Place) -> Parts:
    with open_gguf(path) as source:
        config = llama.config_of_gguf(source.metadata, source.names())
        family = family_of(config)
        ours = replace(family.config(config, source.names()), dtype=dtype)
        params = family.import_params(source, ours, place=place)
        metadata = source.metadata
    words = path.with_name("tokenizer.json")
    if words.is_file():
        return _deep(family.model(ours)), params, tokenizer_from_json(words)
    tokenizer = tokenizer_from_gguf(metadata) if gguf_kind(metadata) == GGUF_KIND else None
    return _deep(family.model(ours)), params, tokenizer


def _glassllm(path: Path, dtype: ActivationDtype, place: Place) -> Parts:
    with open_npz(path) as source:
        if "__config__" not in source.metadata or "blocks.0.ffn.W1" not in source.names():
            raise CheckpointError(f"{path} is not a checkpoint of glassllm, the only npz that is read: convert it.")
        config = llama.config_of_glassllm(source.metadata, source.shape("blocks.0.ffn.W1")[1])
        ours = replace(config, dtype=dtype)
        params = llama.import_params(source, ours, place=place)
    words = path.with_name(f"{path.stem}.tokenizer.json")
    return Decoder(ours), params, tokenizer_of_glassllm(words) if words.is_file() else None


def _deep(model: Any) -> Decoder | Encoder:
    return cast(Decoder | Encoder, model)


def _from_hub(name: str, offline: bool) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise CheckpointError(
            f"{name!r} looks like a Hugging Face id, which needs huggingface_hub: pip install 'jaxsink[hub]'."
        ) from None
    wanted = ["config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, local_files_only=offline))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{name!r} cannot be had from the Hugging Face hub ({said}): check the id.") from error
