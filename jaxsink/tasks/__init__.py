"""Synthetic tasks: generators that are pure functions of a key, with the exact law of what they generate."""

from jaxsink.tasks.bigram_backcopy import BigramBackcopy as BigramBackcopy
from jaxsink.tasks.chains import BigramChain as BigramChain
from jaxsink.tasks.chains import dirichlet as dirichlet
from jaxsink.tasks.chains import from_text as from_text
from jaxsink.tasks.chains import shakespeare as shakespeare
