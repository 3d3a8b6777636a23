"""Sites of a model, activations out, edits in."""

from jaxsink.probing.capture import edit, run
from jaxsink.probing.sites import Site, sites

__all__ = ["Site", "edit", "run", "sites"]
