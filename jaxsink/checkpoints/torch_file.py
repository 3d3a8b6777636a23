"""Weights that torch pickled, rewritten as safetensors; torch stays out of this process and out of the requirements."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from jaxsink.checkpoints.source import CheckpointError

# Tensors and the containers around them, nothing else, come out of the pickle: `weights_only`. Transposed views would
# be written in the order of memory, and `save_file` would make a file that nobody but the user may read.
_REWRITE = """
import pathlib
import sys
import numpy
import torch
from safetensors.numpy import save
tensors = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
arrays = {name: numpy.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
pathlib.Path(sys.argv[2]).write_bytes(save(arrays))
"""


def require_torch(name: str) -> None:
    """Check that weights can be rewritten here, before anything is downloaded.

    Args:
        name: in the catalogue, for the message.

    Raises:
        CheckpointError: there is no torch.
    """
    if importlib.util.find_spec("torch") is None:
        raise CheckpointError(
            f"the weights of {name!r} are a pickle of torch, which is rewritten as safetensors once and needs torch, "
            "but there is none here: pip install 'jaxsink[parity]' (or torch alone, on Python 3.12 and later), and "
            "fetch again."
        )


def safetensors_of(pickle: Path, target: Path) -> None:
    """Rewrite a state dict of torch as safetensors: the same tensors under the same names, nothing else.

    An interpreter of its own reads the pickle, so that neither torch nor what reading leaves behind is in this one. The
    bytes are always the same ones, so that the hash of the target can be pinned.

    Args:
        pickle: the file; the caller has compared its hash, because restricted reading alone is no reason to trust it.
        target: the file to write, in a folder that is not in use yet: it is there in part if this fails.

    Raises:
        CheckpointError: torch cannot read it.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.load.html.
    """
    # -P: where this stands, there could be a module called torch.
    command = [sys.executable, "-P", "-c", _REWRITE, str(pickle.absolute()), str(target.absolute())]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1].rstrip(".")
        raise CheckpointError(
            f"torch cannot rewrite {pickle.name} as safetensors ({said}): install the version that jaxsink[parity] "
            "asks for."
        )
