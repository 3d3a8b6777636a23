"""Sites of a model, activations out, edits in."""

from jaxsink.probing.builders import (
    every_block,
    every_head,
    merge,
    remove_block,
    replace_row,
    zero_head,
)
from jaxsink.probing.by_block import heads_of_block, read_out, stages, sweep_blocks
from jaxsink.probing.capture import gradients, run
from jaxsink.probing.edits import Add, Chain, Clamp, Edit, Edits, ForceAttention, Freeze, Scale, Set, at
from jaxsink.probing.patching import patch, patch_path, transplants
from jaxsink.probing.sites import Site, sites
from jaxsink.probing.sweeps import sweep

__all__ = [
    "Add",
    "Chain",
    "Clamp",
    "Edit",
    "Edits",
    "ForceAttention",
    "Freeze",
    "Scale",
    "Set",
    "at",
    "Site",
    "sites",
    "every_block",
    "every_head",
    "gradients",
    "heads_of_block",
    "merge",
    "patch",
    "patch_path",
    "read_out",
    "remove_block",
    "replace_row",
    "run",
    "stages",
    "sweep",
    "sweep_blocks",
    "transplants",
    "zero_head",
]
