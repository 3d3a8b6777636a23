"""How a checkpoint, or whoever fetches it, refuses."""

import pytest

from jaxsink.checkpoints import CheckpointError


def refused(call, *words):
    """The message of the error: one sentence that says all of the words."""
    with pytest.raises(CheckpointError) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    for word in words:
        assert word in message, (word, message)
