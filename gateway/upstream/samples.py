"""What a candidate must answer before anybody is sent to it (`release: {ready: {sample: …}}`)."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp

from gateway.filters.release_terms import Sample
from gateway.pipeline.pool import Instance
from gateway.upstream.asking import address_of, read_bounded
from gateway.upstream.tls import ClientTls

LIMIT = 1024 * 1024  # bytes of an answer that are read


class Samples:
    """Asks instances. session: the process's own, made when it is needed."""

    def __init__(self, session: Callable[[], aiohttp.ClientSession]) -> None:
        self._session = session
        self._client_tls = ClientTls()

    async def ask(self, instance: Instance, sample: Sample) -> bool:
        """Return whether the instance answers the sample rightly; an instance that can't be asked doesn't."""
        timeout = aiohttp.ClientTimeout(total=sample.timeout)
        body = sample.body.encode()
        try:
            base, encrypted = address_of(instance, self._client_tls)
            async with self._session().request(
                "POST" if body else "GET",
                f"{base}{sample.path}",
                data=body or None,
                headers={"Content-Type": "application/json"} if body else {},
                timeout=timeout,
                allow_redirects=False,
                **encrypted,
            ) as response:
                await read_bounded(response, LIMIT)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False
        return response.status == sample.status
