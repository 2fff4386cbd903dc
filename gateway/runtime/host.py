"""What operators ask of several workers: answered by the supervisor, for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from gateway.admin import views
from gateway.config.listing import listing
from gateway.discovery.registry import Discovery, RegistryStatus
from gateway.pipeline.snapshot import Snapshot
from gateway.runtime import gauges, messages
from gateway.runtime.crew import Crew
from gateway.runtime.hand import Hand, NoAnswer, State
from gateway.runtime.joining import joined_instances, joined_quotas
from gateway.runtime.policies import Policies
from gateway.runtime.releasing import Releasing, read_act
from gateway.telemetry.families import Family, families, lasting, merged, text


class Host:
    """The gateway of one host. Implements admin.app.Operations. now: s, monotonic."""

    def __init__(
        self,
        crew: Crew,
        policies: Policies,
        registry: Discovery | None,
        now: Callable[[], float],
        releasing: Releasing,
    ) -> None:
        self._releasing = releasing
        self.draining = False
        self._crew = crew
        self._policies = policies
        self._registry = registry
        self._now = now
        self._retired: list[Family] = []  # what workers that ended had counted

    def retire(self, hand: Hand) -> None:
        """Keep what a worker that ended had counted."""
        self._retired = merged([self._retired, lasting(hand.families)])

    @property
    def snapshot(self) -> Snapshot:
        """What runs, as built here."""
        assert self._policies.built is not None
        return self._policies.built.snapshot

    def now(self) -> float:
        """Seconds, monotonic."""
        return self._now()

    async def scrape(self) -> Callable[[], bytes]:
        """Ask all workers; returns what joins and writes their metrics, in any thread."""
        hands = [hand for hand in self._crew.hands if hand.state in (State.READY, State.LEAVING)]
        await asyncio.gather(*(hand.count() for hand in hands), return_exceptions=True)
        own = gauges.control(
            self.snapshot, self._policies, self.registry_status(), len(self._crew.ready), self._crew.restarts
        )
        parts = [
            *(hand.families for hand in self._crew.hands),
            self._retired,
            families([*own, *self._releasing.metrics()]),
        ]
        return partial(_write, parts)

    def registry_status(self) -> RegistryStatus | None:
        """How the registry stands."""
        return None if self._registry is None else self._registry.status()

    def last_reload(self) -> Mapping[str, object]:
        """How the last reading of the policies went."""
        return self._policies.report.view()

    def listing(self) -> list[str]:
        """The running policies, a line each."""
        assert self._policies.built is not None
        return listing(self._policies.built.schema)

    def releases(self) -> list[views.View]:
        """Every release."""
        return self._releasing.views()

    def drifts(self) -> list[views.View]:
        """The last alarms of `drift`."""
        return self._releasing.drifts()

    def move_release(self, name: str, word: str) -> views.View:
        """Move a release by hand."""
        return self._releasing.act(name, read_act(word))

    async def reload(self) -> Mapping[str, object]:
        """Read the policies now."""
        return (await self._policies.reload()).view()

    async def purge(self, what: str | None) -> int:
        """Forget cached answers, in all workers."""
        answers = await self._ask_all("purge", {"what": what})
        return sum(number for number in answers if isinstance(number, int))

    async def quotas_left(self, who: str, most: int) -> views.View:
        """Show what is left of quotas: as one worker sees it where all share the ledger, else of all."""
        answers = await self._ask_all("quotas", {"who": who, "most": most})
        return joined_quotas(answers)

    async def explain(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> Mapping[str, object]:
        """Let a worker decide one request, spending and sending nothing."""
        wanted = {"method": method, "url": url, "headers": dict(headers), "body": body.decode()}
        for hand in self._crew.ready:
            try:
                told = await hand.ask("explain", wanted)
            except NoAnswer:
                continue
            if isinstance(told, dict):
                return told
        return {"method": method, "path": url, "trail": [], "why": "no worker serves at the moment"}

    async def instances(self) -> list[views.View]:
        """Every instance of every pool, over all workers."""
        own = views.instances(self.snapshot, self._now())
        return joined_instances(own, await self._ask_all("instances", None))

    def workers(self) -> list[views.View]:
        """The processes that serve, start or leave."""
        hands = sorted(self._crew.hands, key=lambda hand: (hand.slot, hand.number))
        restarts = {slot.number: slot.restarts for slot in self._crew.slots}
        return [
            views.worker(
                hand.slot, hand.pid, hand.state.value, hand.connections, hand.in_flight, restarts[hand.slot]
            )
            for hand in hands
        ]

    def lacking(self) -> list[str]:
        """Why the gateway can't take traffic: fewer than half of its workers serve."""
        ready, wanted = len(self._crew.ready), len(self._crew.slots)
        return [] if 2 * ready >= wanted else [f"{ready} of {wanted} workers serve"]

    async def _ask_all(self, what: messages.Question, wanted: object) -> list[object]:
        answers = await asyncio.gather(
            *(hand.ask(what, wanted) for hand in self._crew.ready), return_exceptions=True
        )
        return [said for said in answers if not isinstance(said, BaseException)]


def _write(parts: Sequence[Sequence[Family]]) -> bytes:
    return text(merged(parts))
