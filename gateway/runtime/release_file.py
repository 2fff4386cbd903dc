"""What releases must not forget, on disk: a state file, and beside it a log of every step.

`releases.json` is written to a temporary file, synced and renamed over the old one, so that a reader finds
the old state or the new one, whatever is killed when. `releases.jsonl` gets one JSON line per event. A disk
that is full or read-only is told of once and otherwise ignored: a release goes on from memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

log = logging.getLogger("headgate.releases")

State = dict[str, dict[str, object]]


class ReleaseFile:
    """Both files. The methods block: call them in a thread from an event loop. path None: nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._is_broken = False

    def load(self) -> State:
        """Return what was kept, release -> plain values; nothing where there is no file or it is damaged."""
        if self._path is None:
            return {}
        try:
            kept = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, orjson.JSONDecodeError) as error:
            log.error("the state of releases is lost, they start anew: %s: %s", self._path, error)
            return {}
        if not isinstance(kept, dict):
            log.error("the state of releases is lost, they start anew: %s is damaged", self._path)
            return {}
        return {name: one for name, one in kept.items() if isinstance(one, dict)}

    def save(self, state: State, events: Sequence[Mapping[str, object]]) -> None:
        """Replace the state, and add events to the log. Never raises OSError."""
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if events:
                with self._path.with_suffix(".jsonl").open("ab") as file:
                    file.writelines(orjson.dumps(event) + b"\n" for event in events)
            self._replace(orjson.dumps(state, option=orjson.OPT_INDENT_2))
        except OSError as error:
            if not self._is_broken:
                log.error("the state of releases can't be kept, they go on from memory: %s", error)
            self._is_broken = True
        else:
            self._is_broken = False

    def _replace(self, content: bytes) -> None:
        assert self._path is not None
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
