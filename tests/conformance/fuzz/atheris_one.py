"""One target under atheris: `python -m tests.conformance.fuzz.atheris_one TARGET SECONDS KEPT KNOWN`.

libFuzzer ends the process itself: with 0 when the time is over, with another code behind an input that broke
a law, which it has written to KNOWN by then.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["gateway"], enable_loader_override=False):
    from tests.conformance.fuzz.targets import TARGETS


def main() -> None:
    """Hand over to libFuzzer."""
    name, seconds, kept, known = sys.argv[1:]
    run = TARGETS[name]

    def one(data: bytes) -> None:
        run(data)

    options = [f"-max_total_time={seconds}", f"-artifact_prefix={known}/", "-max_len=4096", "-timeout=10"]
    atheris.Setup([sys.argv[0], *options, "-verbosity=0", kept, known], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
