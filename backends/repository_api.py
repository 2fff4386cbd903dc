"""V2's model repository extension over HTTP: what is here, and loading and unloading it.

    POST /v2/repository/index                   {"ready": bool}  -> [{name, version, state, reason}]
    POST /v2/repository/models/{m}/load         {"parameters": {"config": "{…}"}}
    POST /v2/repository/models/{m}/unload

`config` is a JSON text of card keys that replace the file's until the next load without them, so that
`{"execution": "thread", "instances": 2}` changes how a model runs while it serves. Loading and unloading
need `control: true` in the server's settings: whoever reaches the port could take a model away.

Source: Triton's "model repository extension"; its `file:` parameters are refused, for what is served must
lie in the repository.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

import orjson

from backends.errors import Forbidden, Invalid, NotFound, Unsupported
from backends.library import Entry, Library
from backends.messages import Reply, parse_object

PREFIX = "/v2/repository"

_URL = re.compile(r"/v2/repository(?:/(index)|/models/([^/]+)/(load|unload))")


class RepositoryApi:
    """The extension over one library. control: loading and unloading are allowed."""

    __slots__ = ("_control", "_library")

    def __init__(self, library: Library, control: bool) -> None:
        self._library = library
        self._control = control

    async def answer(self, path: str, body: bytes) -> Reply:
        """Answer a POST. Raises BackendError."""
        match = _URL.fullmatch(path)
        if match is None:
            raise NotFound("no such URL")
        if match[1]:
            return Reply(200, orjson.dumps([_line(one) for one in await self.index(_only_ready(body))]))
        name = unquote(match[2])
        if match[3] == "load":
            await self.load(name, _config(body))
        else:
            await self.unload(name)
        return Reply(200, b"")

    async def index(self, only_ready: bool) -> list[Entry]:
        """Return the index."""
        entries = await self._library.index()
        return [entry for entry in entries if entry.state == "READY" or not only_ready]

    async def load(self, name: str, config: str) -> None:
        """Load, with `config` over the card. Forbidden, NotFound, Invalid, Unavailable."""
        self._allowed()
        await self._library.load(name, config)

    async def unload(self, name: str) -> None:
        """Unload. Forbidden, NotFound."""
        self._allowed()
        await self._library.unload(name)

    def _allowed(self) -> None:
        if not self._control:
            raise Forbidden("this server was not started with control: models are not loaded by request")


def check_config(parameters: object) -> str:
    """Return the card keys of a load's parameters as JSON; empty: none. Invalid, Unsupported."""
    if parameters is None:
        return ""
    if not isinstance(parameters, dict):
        raise Invalid("'parameters' must be an object")
    for name in parameters:
        if str(name).startswith("file:"):
            raise Unsupported("a model's files come from the repository, not from a request")
    config = parameters.get("config", "")
    if not isinstance(config, str):
        raise Invalid("'config' must be a JSON text of card keys")
    return "" if not config else orjson.dumps(parse_object(config.encode())).decode()


def _config(body: bytes) -> str:
    return check_config(parse_object(body).get("parameters")) if body.strip() else ""


def _only_ready(body: bytes) -> bool:
    return bool(body.strip()) and parse_object(body).get("ready") is True


def _line(entry: Entry) -> dict[str, str]:
    return {"name": entry.name, "version": entry.version, "state": entry.state, "reason": entry.reason}
