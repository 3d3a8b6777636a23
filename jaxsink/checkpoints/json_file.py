"""JSON files that come with a checkpoint: config.json, the index of shards, tokenizer settings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jaxsink.checkpoints.source import CheckpointError

# The largest index of shards known (of some 90,000 tensors) takes a tenth of this.
_MOST_BYTES = 1 << 26


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file that holds one JSON object, such as the config.json beside the weights.

    Raises:
        CheckpointError: the file is missing, too large, not JSON, or holds something else than an object.
    """
    place = Path(path)
    try:
        with place.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{place} cannot be read ({error.strerror}): check the path.") from error
    if len(content) > _MOST_BYTES:
        raise CheckpointError(
            f"{place} is longer than the {_MOST_BYTES >> 20} MiB that a JSON file beside a checkpoint may have: "
            "give the right file."
        )
    try:
        # RecursionError: JSON that opens more brackets than the parser can hold.
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise CheckpointError(f"{place} is not JSON ({reason}): download it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{place} must hold a JSON object, but it holds a {type(value).__name__}: download it again."
        )
    return value
