"""Where in its life a request is (pipeline/exchange.py)."""

from __future__ import annotations

from enum import Enum
from typing import Final


class Phase(Enum):
    """Where in its life a request is."""

    NEW = "new"
    DECIDING = "deciding"  # on_request filters
    COLLECTING = "collecting"  # reading the body whole
    ATTEMPTING = "attempting"  # an instance has it
    ANSWERING = "answering"  # on_response filters
    STREAMING = "streaming"  # the answer's head is out
    TUNNELLING = "tunnelling"  # a 101 is out
    DONE = "done"


# A member of an Enum costs a look-up in its class each time, a global in its module; a compiled Final none.
NEW: Final = Phase.NEW
DECIDING: Final = Phase.DECIDING
COLLECTING: Final = Phase.COLLECTING
ATTEMPTING: Final = Phase.ATTEMPTING
ANSWERING: Final = Phase.ANSWERING
STREAMING: Final = Phase.STREAMING
TUNNELLING: Final = Phase.TUNNELLING
DONE: Final = Phase.DONE
