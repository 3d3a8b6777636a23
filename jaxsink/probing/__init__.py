"""Sites of a model, activations out, edits in."""

from jaxsink.probing.builders import every_block, every_head, merge, remove_block, replace_row, zero_head
from jaxsink.probing.capture import gradients, run
from jaxsink.probing.edits import Add, Chain, Clamp, Edit, Edits, ForceAttention, Freeze, Scale, Set, at
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
    "merge",
    "remove_block",
    "replace_row",
    "run",
    "sweep",
    "zero_head",
]
