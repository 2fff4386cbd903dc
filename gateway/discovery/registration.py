"""Registration: a server tells a registry that it is there, and keeps saying so.

    registration = await Registration.open("http://127.0.0.1:9080", "digits", "10.0.0.5:8000", version="v1")
    …
    await registration.close()

Presence is a lease. It is renewed every third of its time, with jitter so that a fleet does not renew in
step; a lease that was lost (the registry restarted, was restored, or did not hear from us in time) is
opened anew. While the registry is away the task keeps trying and the server keeps serving: a gateway serves
on from what it knew. `close` deregisters, so that gateways stop sending at once instead of after the
lease's time; it takes at most a second, because a server that cannot stop is worse than a lease that must
run out.

An instance's id ends in a nonce made at each start: a late goodbye of the previous process cannot remove the
present one. Both transports are here because a server knows only one URL:

    http://HOST:PORT                                    a gateway's admin port, its built-in registry
    etcd://[USER:PASSWORD@]HOST:PORT[,…][/NAMESPACE]     etcd; etcds:// for TLS, ?ca=FILE&cert=FILE&key=FILE
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final, Protocol, Self
from urllib.parse import quote, urlsplit

import aiohttp
import orjson

from gateway.discovery.etcd import EtcdClient, EtcdError, EtcdSettings, parse_etcd_url
from gateway.discovery.members import (
    DEFAULT_WEIGHT,
    Member,
    State,
    format_address,
    member_fields,
    member_key,
    parse_address,
    service_prefix,
    write_member,
)

CLOSE_WITHIN: Final = 1.0  # s
_FIRST_RETRY: Final = 0.1  # s
_TIMEOUT: Final = 2.0  # s, per call
_UNREACHABLE_HOSTS: Final = frozenset({"", "0.0.0.0", "::"})


class RegistryUnavailable(Exception):
    """The registry did not take the call; trying again may help. The message holds no secret."""


class RegistryRefused(RegistryUnavailable):
    """The registry understood and said no: a wrong token, a bad name, an address it does not allow."""


class Registry(Protocol):
    """What a registration needs of a registry. Every method raises RegistryUnavailable when it fails."""

    async def register(self, service: str, member: Member, ttl: float) -> str:
        """Put the member under a new lease (replacing the same id's entry) and return the lease."""
        ...

    async def renew(self, lease: str) -> bool:
        """Extend the lease to its full time. False: there is no such lease any more."""
        ...

    async def remove(self, lease: str) -> None:
        """End the lease and with it the entry; no error when it is gone already."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class Registration:
    """One instance's presence in one registry; a task owned by whoever called `open`."""

    __slots__ = (
        "_closing",
        "_expires",
        "_first",
        "_lease",
        "_lock",
        "_member",
        "_registry",
        "_rng",
        "_task",
        "_ttl",
        "reason",
        "service",
    )

    def __init__(self, registry: Registry, service: str, member: Member, ttl: float) -> None:
        self._registry = registry
        self._member = member
        self._ttl = ttl
        self._lease: str | None = None
        self._expires = 0.0  # monotonic s: until then the registry holds us, as far as we know
        self._lock = asyncio.Lock()  # one call at a time: an update must not cross a renewal
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing = asyncio.Event()
        self._rng = random.Random()
        self._task: asyncio.Task[None] | None = None
        self.service = service
        self.reason: str | None = None  # why the last call failed, None when it did not

    @classmethod
    async def open(
        cls,
        url: str,
        service: str,
        address: str | tuple[str, int],
        *,
        version: str | None = None,
        models: Iterable[tuple[str, str]] = (),
        labels: Mapping[str, str] | None = None,
        weight: int = DEFAULT_WEIGHT,
        protocol: str = "http",
        zone: str | None = None,
        ttl: float = 10.0,
        token: str | None = None,
        wait: bool = False,
    ) -> Self:
        """Register in the background and keep the lease until `close`.

        address: where others reach this server, not what it binds to: 0.0.0.0 is refused. models: (name,
        version) pairs. ttl: s; a crash is noticed after that time. token: for a gateway's admin port; etcd
        has its user in the URL. wait: return only once registered, and raise RegistryRefused if waiting
        will not bring that. Raises ValueError for a bad URL, address or name. A registry that is down is no
        error.
        """
        host, port = check_request(service, address, ttl)
        member = Member(
            id=instance_id(host, port, secrets.token_hex(4)),
            address=(host, port),
            weight=weight,
            version=version,
            protocol=protocol,
            models=tuple(models),
            labels=tuple(sorted((labels or {}).items())),
            zone=zone,
            started_at=round(time.time(), 3),
        )
        member_key(
            "default", service, member.id
        )  # a bad service name is an error here, not in the background
        registration = cls(registry_at(url, token=token), service, member, ttl)
        registration._task = asyncio.create_task(registration._run(), name=f"registration {member.id}")
        if wait:
            try:
                await registration._first
            except BaseException:
                await registration.close()
                raise
        return registration

    @property
    def id(self) -> str:
        """The instance's id in the registry."""
        return self._member.id

    @property
    def is_registered(self) -> bool:
        """As far as this side knows: the lease was granted and has not run out."""
        return time.monotonic() < self._expires

    async def update(
        self,
        *,
        state: State | None = None,
        weight: int | None = None,
        models: Iterable[tuple[str, str]] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Change what is registered: `state="draining"` before stopping, `models` after loading one.

        Tries once now; when the registry is away, the change goes out with the next renewal.
        """
        async with self._lock:
            member = self._member
            self._member = replace(
                member,
                state=member.state if state is None else state,
                weight=member.weight if weight is None else weight,
                models=member.models if models is None else tuple(models),
                labels=member.labels if labels is None else tuple(sorted(labels.items())),
            )
            self._lease = None  # a new lease carries the new entry; the old one holds nothing and runs out
        with contextlib.suppress(RegistryUnavailable):
            await self._keep()

    async def close(self) -> None:
        """Deregister and stop, within CLOSE_WITHIN s whatever the registry does. Safe to call twice."""
        task, self._task = self._task, None
        if task is None:
            return
        self._closing.set()
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await asyncio.wait(
                    {task}
                )  # a call in flight ends first: its lease must be known to be removed
                if self._lease is not None:
                    await self._registry.remove(self._lease)
        except (RegistryUnavailable, TimeoutError) as error:
            self.reason = f"not deregistered, the lease must run out: {error or 'timed out'}"
        else:
            self.reason = "closed"
        finally:
            self._lease = None
            self._expires = 0.0
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._registry.close()

    # The task

    async def _run(self) -> None:
        """Renew at a third of the lease's time; after a failure sooner: 0.1 s, doubling up to that third."""
        third = self._ttl / 3
        retry = _FIRST_RETRY
        while not self._closing.is_set():
            try:
                await self._keep()
            except RegistryUnavailable as error:
                self._failed(error)
                pause, retry = retry * self._rng.uniform(0.5, 1.0), min(third, retry * 2)
            else:
                pause, retry = third * self._rng.uniform(0.8, 1.0), _FIRST_RETRY
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)

    async def _keep(self) -> None:
        async with self._lock:
            asked = time.monotonic()  # the registry counts from when it reads the call: never later than this
            if self._lease is None or not await self._registry.renew(self._lease):
                self._lease = None
                self._lease = await self._registry.register(self.service, self._member, self._ttl)
            self._expires = asked + self._ttl
        self.reason = None
        if not self._first.done():
            self._first.set_result(None)

    def _failed(self, error: RegistryUnavailable) -> None:
        self.reason = str(error)
        if isinstance(error, RegistryRefused) and not self._first.done():
            self._first.set_exception(error)
            self._first.exception()  # read here, since nobody may be waiting for it

    def __repr__(self) -> str:
        state = "registered" if self.is_registered else f"not registered: {self.reason or 'not yet'}"
        return f"<Registration {self.service}/{self.id} | {state}>"


def check_request(service: str, address: str | tuple[str, int], ttl: float) -> tuple[str, int]:
    """Find the mistakes that `Registration.open` would raise ValueError for. Returns (host, port)."""
    host, port = parse_address(address) if isinstance(address, str) else address
    if host in _UNREACHABLE_HOSTS:
        raise ValueError(f"{host or '(empty)'}:{port} is where a server listens, not where others reach it")
    if ttl < 1.0:
        raise ValueError(f"ttl must be at least 1 s, got {ttl:g}")
    member_key("default", service, "id")
    return host, port


def instance_id(host: str, port: int, nonce: str) -> str:
    """`<host>-<port>-<nonce>`: readable by people, new at every start."""
    return f"{host.replace(':', '.')}-{port}-{nonce}"


def registry_at(url: str, *, token: str | None = None) -> Registry:
    """The registry a URL names. Raises ValueError (without credentials) for one that names none."""
    scheme = urlsplit(url).scheme
    if scheme in ("etcd", "etcds"):
        return EtcdLeases(parse_etcd_url(url, timeout=_TIMEOUT))
    if scheme in ("http", "https"):
        return GatewayLeases(url, token)
    raise ValueError("a registry's URL starts with http://, https://, etcd:// or etcds://")


# The transports


class EtcdLeases:
    """Leases and keys in etcd. A lease is written as its decimal number."""

    def __init__(self, settings: EtcdSettings) -> None:
        service_prefix(settings.namespace)
        self._namespace = settings.namespace
        self._client = EtcdClient(settings)

    async def register(self, service: str, member: Member, ttl: float) -> str:
        """Grant a lease and put the key under it."""
        key = member_key(self._namespace, service, member.id)
        with _etcd_errors():
            lease = await self._client.grant(ttl)
            await self._client.put(key, write_member(member), lease=lease)
        return str(lease)

    async def renew(self, lease: str) -> bool:
        """One keepalive; etcd answers TTL 0 for a lease that is gone."""
        with _etcd_errors():
            return await self._client.keep_alive(int(lease)) > 0

    async def remove(self, lease: str) -> None:
        """Revoke: the key goes with its lease."""
        with _etcd_errors():
            await self._client.revoke(int(lease))

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()


class GatewayLeases:
    """A gateway's built-in registry, over the admin API's /registry routes."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = url.rstrip("/") + "/registry"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session: aiohttp.ClientSession | None = None

    async def register(self, service: str, member: Member, ttl: float) -> str:
        """POST /registry/SERVICE."""
        body = {
            "id": member.id,
            "address": format_address(member.address),
            "ttl": ttl,
            **member_fields(member),
        }
        status, answer = await self._call("POST", quote(service, safe=""), body)
        lease = answer.get("lease")
        if status not in (200, 201) or not isinstance(lease, str):
            raise _refusal(status, answer)
        return lease

    async def renew(self, lease: str) -> bool:
        """PUT /registry/leases/LEASE; 404 is a lease that is gone."""
        status, answer = await self._call("PUT", f"leases/{quote(lease, safe='')}", None)
        if status not in (200, 204, 404):
            raise _refusal(status, answer)
        return status != 404

    async def remove(self, lease: str) -> None:
        """DELETE /registry/leases/LEASE."""
        status, answer = await self._call("DELETE", f"leases/{quote(lease, safe='')}", None)
        if status not in (200, 204, 404):
            raise _refusal(status, answer)

    async def close(self) -> None:
        """Close connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            await asyncio.sleep(
                0
            )  # transports close in the loop's next round; the loop may end with this call

    async def _call(
        self, method: str, path: str, body: Mapping[str, object] | None
    ) -> tuple[int, dict[str, object]]:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
            self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        data = None if body is None else orjson.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            async with self._session.request(
                method, f"{self._url}/{path}", data=data, headers=headers, allow_redirects=False
            ) as response:
                return response.status, _object(await response.content.read(65536))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise RegistryUnavailable(f"{self._url}: {str(error) or type(error).__name__}") from error


@contextlib.contextmanager
def _etcd_errors() -> Iterator[None]:
    """Map the client's errors: another try may help, unless etcd knows who we are and says no."""
    try:
        yield
    except EtcdError as error:
        refused = error.code in (3, 7)  # INVALID_ARGUMENT (also: wrong user or password), PERMISSION_DENIED
        raise (RegistryRefused if refused else RegistryUnavailable)(f"etcd: {error}") from error


def _refusal(status: int, answer: Mapping[str, object]) -> RegistryUnavailable:
    said = answer.get("detail") or answer.get("error") or answer.get("title")
    message = f"the registry answered {status}{f': {said}' if said else ''}"
    return RegistryRefused(message) if 400 <= status < 500 and status != 429 else RegistryUnavailable(message)


def _object(data: bytes) -> dict[str, object]:
    try:
        answer = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}
