"""What a request is near to by affinity: its chain of blocks (governance/affinity.py).

    header:NAME   one block: the header's value (a session, a LoRA adapter); without the header none
    principal …   one block: who asks
    prompt        one per 256 bytes of the body, from its `"messages"` or `"prompt"` on; what comes before in
                  a chain is part of each block's hash: two prompts share as many blocks as they begin alike

A prompt's bytes are compared as they were sent, unparsed: a client writes its JSON the same way every time,
and a prefix found too short costs a bonus, nothing more. A body that is streamed past has no blocks.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from gateway.pipeline.context import Context

BLOCK: Final = 256  # bytes
MOST: Final = 64  # blocks: 16 KiB of a prompt tell instances apart
_STARTS: Final = (b'"messages"', b'"prompt"', b'"text_input"')


def blocks_of(ctx: Context, to: str) -> tuple[int, ...]:
    """Return the chain, () where the request is near to nothing."""
    if to == "prompt":
        return _chain(ctx.request.body)
    text = key_text(ctx, to)
    return (hash64(text),) if text else ()


def key_text(ctx: Context, to: str) -> bytes:
    """Return what `principal`, `tenant`, `client`, `path` or `header:NAME` is here; b"" for nothing."""
    match to.partition(":"):
        case ("principal", _, _):
            return b"" if ctx.principal is None else ctx.principal.name.encode()
        case ("tenant", _, _):
            return b"" if ctx.principal is None else ctx.principal.tenant.encode()
        case ("path", _, _):
            return ctx.request.path
        case ("header", _, name):
            return ctx.request.header(name.lower().encode()) or b""
        case _:
            return ctx.client.encode()


def hash64(text: bytes) -> int:
    """Return 64 stable bits of it."""
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


def _chain(body: bytes | None) -> tuple[int, ...]:
    if body is None:
        return ()
    found = [at for at in map(body.find, _STARTS) if at >= 0]
    if not found:
        return ()
    start = min(found)
    chain: list[int] = []
    running = blake2b(digest_size=8)
    for at in range(start, min(len(body) - BLOCK + 1, start + MOST * BLOCK), BLOCK):
        running.update(body[at : at + BLOCK])
        chain.append(int.from_bytes(running.copy().digest(), "big"))
    return tuple(chain)
