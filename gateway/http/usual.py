"""heads.pyx where it was compiled, None where it was not: who reads or writes a head asks here first.

The functions answer for heads of the usual form and return None for all others; parse.py and serialize.py
then decide, so that both forms of the gateway accept, refuse and write the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from gateway.http.message import Headers

# Signatures and meanings: heads.pyx.
ReadRequest: TypeAlias = Callable[
    [bytes, int, int, int], tuple[bytes, bytes, bytes, bytes, Headers, bytes, int, bool, int] | None
]
ReadResponse: TypeAlias = Callable[[bytes, int, int], tuple[int, Headers, int, bool, int] | None]
WriteRequest: TypeAlias = Callable[[bytes, bytes, bytes, bytes, Headers, int, bytes], bytes | None]
WriteResponse: TypeAlias = Callable[[bytes, Headers, int, bytes, bytes, bytes], bytes | None]

CHUNKED: Final = -1  # instead of a length
NO_LENGTH: Final = -2

read_request: ReadRequest | None = None
read_response: ReadResponse | None = None
write_request: WriteRequest | None = None
write_response: WriteResponse | None = None

try:
    from gateway.http import heads
except ImportError:
    pass
else:
    read_request, read_response = heads.read_request, heads.read_response
    write_request, write_response = heads.write_request, heads.write_response
