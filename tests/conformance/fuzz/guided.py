"""One target in a loop of our own, where there is no atheris: `python -m tests.conformance.fuzz.guided …`.

Coverage-guided, slowly: `sys.settrace` notes which lines of gateway/ an input reaches; what reaches a new
line is kept and mutated further. Good for some thousand inputs a second on small readers; atheris counts
branches and is ten times as fast.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from tests.conformance.fuzz.targets import TARGETS, Target

Line = tuple[str, int]


class Lines:
    """The lines of gateway/ that were reached."""

    def __init__(self) -> None:
        self.reached: set[Line] = set()

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        """Trace a call, if it is one of ours."""
        if "/gateway/" not in frame.f_code.co_filename:
            return None
        self.reached.add((frame.f_code.co_filename, frame.f_lineno))
        return self

    def of(self, run: Target, data: bytes) -> set[Line]:
        """Run the target; return what it reached for the first time."""
        before = self.reached
        self.reached = set()
        sys.settrace(self)
        try:
            run(data)
        finally:
            sys.settrace(None)
            new = self.reached - before
            self.reached |= before
        return new


def mutate(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Change a few places: flip, drop, double, insert what is special, splice with another."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(made))
        match rng.randrange(6):
            case 0 if at < len(made):
                made[at] ^= 1 << rng.randrange(8)
            case 1:
                del made[at : at + rng.randint(1, 8)]
            case 2:
                made[at:at] = made[at : at + rng.randint(1, 16)]
            case 3:
                made[at:at] = rng.choice(
                    (b"\r\n", b"\n", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"-", b"\xff")
                )
            case 4:
                other = rng.choice(others)
                cut = rng.randint(0, len(other))
                made[at:] = other[cut:]
            case _:
                made[at : at + 1] = bytes((rng.randrange(256),))
    return bytes(made[:4096])


def fuzz(run: Target, seconds: float, kept: Path, known: Path) -> bool:
    """Mutate until the time is over; tell whether a law was broken, which is then written to `known`."""
    rng = random.Random(0)
    lines = Lines()
    corpus = [path.read_bytes()[:4096] for folder in (kept, known) for path in sorted(folder.iterdir())] or [
        b""
    ]
    ends = time.monotonic() + seconds
    ran = 0
    while time.monotonic() < ends:
        data = corpus[ran] if ran < len(corpus) else mutate(rng.choice(corpus), corpus, rng)
        ran += 1
        name = hashlib.sha256(data).hexdigest()[:16]
        try:
            new = lines.of(run, data)
        except Exception as broken:
            (known / f"crash-{name}").write_bytes(data)
            print(f"a law was broken after {ran} inputs: {known / f'crash-{name}'}: {broken!r}")
            return True
        if new and ran > len(corpus):
            corpus.append(data)
            (kept / name).write_bytes(data)
    print(f"{ran} inputs, {len(corpus)} kept, {len(lines.reached)} lines reached")
    return False


if __name__ == "__main__":
    NAME, SECONDS, KEPT, KNOWN = sys.argv[1:]
    sys.exit(fuzz(TARGETS[NAME], float(SECONDS), Path(KEPT), Path(KNOWN)))
