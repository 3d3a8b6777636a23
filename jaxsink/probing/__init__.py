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
from jaxsink.probing.rounding import Round, levels_of, round_to_nearest, rounded_params
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
    "Round",
    "Scale",
    "Set",
    "at",
    "Site",
    "sites",
    "every_block",
    "every_head",
    "gradients",
    "heads_of_block",
    "levels_of",
    "merge",
    "patch",
    "patch_path",
    "read_out",
    "remove_block",
    "replace_row",
    "round_to_nearest",
    "rounded_params",
    "run",
    "stages",
    "sweep",
    "sweep_blocks",
    "transplants",
    "zero_head",
]
