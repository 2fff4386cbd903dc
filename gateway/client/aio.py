"""The client for asyncio, on aiohttp; otherwise like sync.py."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
from yarl import URL

from gateway.client.asking import Asking, Broken, Pause, Reply, Send, Steps
from gateway.client.calls import AsyncCalls
from gateway.client.tensors import Inputs, Prediction
from gateway.client.trust import context, roots
from gateway.dialects.metadata import Metadata

T = TypeVar("T")


class AsyncClient:
    """Asks models through a gateway, or a model server directly. For one event loop.

    Parameters and errors as those of sync.Client.
    """

    def __init__(
        self,
        url: str,
        *,
        dialect: str = "kserve-v2",
        key: str = "",
        bearer: str = "",
        timeout: float = 30.0,
        retries: int = 2,
        signature: str = "",
        ca: str = "",
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url must be like http://127.0.0.1:8080, not {url!r}")
        self._base = url.rstrip("/")
        self._asking = Asking(dialect, key, bearer, timeout, retries, signature)
        self._trust = context(ca) if url.startswith("https:") else True
        self._session: aiohttp.ClientSession | None = None
        self._calls = AsyncCalls(url, roots(ca)) if self._asking.dialect.is_grpc else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections that are kept."""
        if self._calls is not None:
            await self._calls.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        target: str = "",
        outputs: tuple[str, ...] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it is sent to the server, and bounds all tries
    ) -> Prediction:
        """Predict.

        inputs: an array for a model with one input, or arrays by name. target: a version or a label.
        """
        return await self._run(self._asking.predict(model, inputs, target, outputs, timeout))

    async def metadata(
        self,
        model: str,
        *,
        target: str = "",
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Metadata:
        """Tell what the model takes and gives."""
        return await self._run(self._asking.metadata(model, target, timeout))

    async def ready(self, model: str = "", *, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Tell whether the model (or the server) can serve; False where nobody answers."""
        return await self._run(self._asking.ready(model, timeout))

    async def _run(self, steps: Steps[T]) -> T:
        outcome: Reply | Broken | None = None
        while True:
            try:
                wanted = steps.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            if isinstance(wanted, Pause):
                await asyncio.sleep(wanted.seconds)
                outcome = None
            else:
                outcome = await self._send(wanted)

    async def _send(self, wanted: Send) -> Reply | Broken:
        if self._calls is not None:
            return await self._calls.send(wanted)
        if self._session is None:
            self._session = aiohttp.ClientSession()
        call = wanted.call
        fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in call.headers}
        url = URL(self._base + call.path.decode("latin-1"), encoded=True)
        try:
            async with self._session.request(
                call.method.decode(),
                url,
                data=call.body or None,
                headers=fields,
                allow_redirects=False,
                ssl=self._trust,
                timeout=aiohttp.ClientTimeout(total=wanted.left),
            ) as response:
                body = await response.read()
                headers = [(name.lower(), value) for name, value in response.raw_headers]
                return Reply(response.status, headers, body)
        except TimeoutError:
            return Broken(f"no answer within {wanted.left:.3g} s", expired=True)
        except (aiohttp.ClientError, OSError) as error:
            return Broken(f"no answer from {url.host}: {error or type(error).__name__}")
