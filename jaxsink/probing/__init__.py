"""Sites of a model, activations out, edits in."""

from jaxsink.probing.capture import run
from jaxsink.probing.edits import Add, Clamp, Edit, ForceAttention, Freeze, Scale, Set, at
from jaxsink.probing.sites import Site, sites

__all__ = ["Add", "Clamp", "Edit", "ForceAttention", "Freeze", "Scale", "Set", "Site", "at", "run", "sites"]
