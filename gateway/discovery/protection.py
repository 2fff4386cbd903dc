"""Between what a registry says and what traffic follows: no clock, no I/O.

Two kinds of news arrive, and they deserve different trust:

- An *event* names one key that was written or deleted. It is explicit, also when a lease ran out: it passes
  at once. A killed instance leaves with its lease, a deregistered one immediately.
- A *list* says what is there and only implies what is gone. A registry that was restored, wiped, split, or
  that lost its sessions lists little or nothing while every instance is alive: an *empty push*. So a list
  that takes a service to zero, or together with other lists of the last `window` seconds takes away more
  than `max_removal_ratio` of it, is held: the members stay until a second list, `confirm_after` later, still
  lacks them. The owner of this object asks `confirm_at` when that list is due.

Two more delays keep pools calm: additions are gathered for `debounce` (quiet) up to `debounce_max`, so that a
fleet that starts comes as one set; and an id that was deleted and written again `flaps` times in
`flap_window`, a lease that comes and goes while its process lives (the id changes when the process does),
stays `flap_hold` longer.

            put              debounce passed
  absent ---------> adding -------------------> shown <----------------- put (always at once)
                      | delete                    | delete -------------> absent
                      v                           | delete, flapping ---> lingering --flap_hold--> absent
                    absent                        | missing in a list --> absent
                                                  | … too many at once -> held --confirmed--> absent
Source: Nacos' namingPushEmptyProtection, Eureka's self-preservation; ZooKeeper delivered one empty push
after a restart when this was tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from math import inf

from gateway.discovery.members import Member


@dataclass(frozen=True, slots=True)
class ProtectionRules:
    """Times in s. max_removal_ratio: of a service's members, by lists alone, within `window`."""

    max_removal_ratio: float = 0.5
    window: float = 5.0
    confirm_after: float = 10.0
    debounce: float = 0.1
    debounce_max: float = 1.0
    flaps: int = 3
    flap_window: float = 60.0
    flap_hold: float = 3.0


class Phase(Enum):
    """Where one id stands; absent ids are not kept."""

    ADDING = "adding"
    SHOWN = "shown"
    HELD = "held"
    LINGERING = "lingering"


class _Slot:
    """One id: its last readable value, its phase, and the instant at which that phase ends by itself."""

    __slots__ = ("member", "phase", "until")

    def __init__(self, member: Member, phase: Phase, until: float) -> None:
        self.member = member
        self.phase = phase
        self.until = until

    @property
    def is_visible(self) -> bool:
        return self.phase is not Phase.ADDING


class _Service:
    """One service's ids and its recent history."""

    __slots__ = ("deletions", "first_addition", "removals", "show_at", "slots")

    def __init__(self) -> None:
        self.slots: dict[str, _Slot] = {}
        self.removals: list[tuple[float, int]] = []  # (when, how many) of those that lists took away
        self.deletions: dict[str, list[float]] = {}  # id → when it was deleted, for ids that come back
        self.first_addition = inf
        self.show_at = inf  # when the additions that wait are shown: each one restarts the quiet time of all

    @property
    def is_empty(self) -> bool:
        return not (self.slots or self.removals or self.deletions)

    def visible(self) -> list[Member]:
        return [slot.member for slot in self.slots.values() if slot.is_visible]

    def newest(self) -> frozenset[Member]:
        """The visible members, one per address and version: a process that was killed and started again on
        its old port has a new id while the old one's lease still runs.
        """
        chosen: dict[tuple[tuple[str, int], str | None], Member] = {}
        for member in self.visible():
            key = (member.address, member.version)
            other = chosen.get(key)
            if other is None or (member.started_at or 0.0) >= (other.started_at or 0.0):
                chosen[key] = member
        return frozenset(chosen.values())


class Protection:
    """The sets that traffic follows, for every service of one registry.

    Every method that takes news returns the services whose visible set may have changed; `members` reads it.
    `now`: s, monotonic, never decreasing. Memory is proportional to the ids present, plus the deletions of
    the last `flap_window`.
    """

    __slots__ = ("_rules", "_services")

    def __init__(self, rules: ProtectionRules | None = None) -> None:
        self._rules = rules or ProtectionRules()
        self._services: dict[str, _Service] = {}

    # News

    def restore(self, services: Mapping[str, Iterable[Member]]) -> set[str]:
        """Begin with an earlier session's sets: the first list is then judged against them."""
        for service, members in services.items():
            slots = self._service(service).slots
            slots.update((member.id, _Slot(member, Phase.SHOWN, inf)) for member in members)
        return set(services)

    def put(self, service: str, member: Member, now: float) -> set[str]:
        """An id was written. Known ids change at once; new ones are debounced, unless nobody is there."""
        state = self._service(service)
        slot = state.slots.get(member.id)
        if slot is not None and slot.is_visible:
            changed = slot.member != member
            slot.member, slot.phase, slot.until = member, Phase.SHOWN, inf
            return {service} if changed else set()
        if not any(other.is_visible for other in state.slots.values()):
            state.slots[member.id] = _Slot(member, Phase.SHOWN, inf)
            return {service} | self._show_additions(service, state)
        state.slots[member.id] = _Slot(member, Phase.ADDING, inf)
        state.first_addition = min(state.first_addition, now)
        state.show_at = min(now + self._rules.debounce, state.first_addition + self._rules.debounce_max)
        return set()

    def delete(self, service: str, member_id: str, now: float) -> set[str]:
        """An id was deleted, or its lease ran out."""
        state = self._service(service)
        slot = state.slots.get(member_id)
        if slot is None or slot.phase is Phase.LINGERING:
            return set()
        if self._is_flapping(state, member_id, now) and slot.phase is Phase.SHOWN:
            slot.phase, slot.until = Phase.LINGERING, now + self._rules.flap_hold
            return set()
        del state.slots[member_id]
        return {service} if slot.is_visible else set()

    def sync(self, listed: Mapping[str, Mapping[str, Member | None]], now: float) -> set[str]:
        """All that the registry has: service → id → member; None = there but unreadable: keep what we had."""
        changed: set[str] = set()
        for service in self._services.keys() | listed.keys():
            changed |= self._list_one(service, listed.get(service, {}), now)
        return changed

    def tick(self, now: float) -> set[str]:
        """Time passed: show additions whose debounce is over, drop what lingered long enough."""
        changed: set[str] = set()
        for service, state in self._services.items():
            if state.show_at <= now:
                changed |= self._show_additions(service, state)
            for slot in [slot for slot in state.slots.values() if slot.until <= now]:
                if slot.phase is Phase.LINGERING:
                    del state.slots[slot.member.id]
                    changed.add(service)
            self._forget(state, now)
        for service in [name for name, state in self._services.items() if state.is_empty]:
            del self._services[service]
        return changed

    def release(self, service: str) -> set[str]:
        """An operator overrules: what is held in this service is gone now."""
        state = self._service(service)
        held = [slot for slot in state.slots.values() if slot.phase is Phase.HELD]
        for slot in held:
            del state.slots[slot.member.id]
        return {service} if held else set()

    # Questions

    def members(self, service: str) -> frozenset[Member]:
        """The set that traffic follows."""
        state = self._services.get(service)
        return state.newest() if state is not None else frozenset()

    def visible(self) -> dict[str, frozenset[Member]]:
        """Every service with members."""
        sets = {service: self.members(service) for service in self._services}
        return {service: members for service, members in sets.items() if members}

    def held(self) -> dict[str, int]:
        """How many members are shown although the last list lacked them, per service that has such."""
        counts = {
            service: sum(slot.phase is Phase.HELD for slot in state.slots.values())
            for service, state in self._services.items()
        }
        return {service: count for service, count in counts.items() if count}

    def wake_at(self) -> float:
        """The next instant at which `tick` may change something; inf = none."""
        lingering = (slot.until for slot in self._slots() if slot.phase is Phase.LINGERING)
        return min((*lingering, *(state.show_at for state in self._services.values())), default=inf)

    def confirm_at(self) -> float:
        """The instant from which a second list may confirm what is held; inf = nothing is held."""
        return min((slot.until for slot in self._slots() if slot.phase is Phase.HELD), default=inf)

    # One service and one list

    def _list_one(self, service: str, listed: Mapping[str, Member | None], now: float) -> set[str]:
        state = self._service(service)
        before = state.visible()
        missing = [slot for slot in state.slots.values() if slot.member.id not in listed]
        for member_id, member in listed.items():
            slot = state.slots.get(member_id)
            if member is not None:
                state.slots[member_id] = _Slot(member, Phase.SHOWN, inf)
            elif slot is not None:
                slot.phase, slot.until = Phase.SHOWN, inf
        state.first_addition = state.show_at = inf
        for slot in missing:
            if slot.phase is Phase.ADDING:
                del state.slots[slot.member.id]
        self._remove_missing(state, missing, len(before), now)
        return {service} if set(before) != set(state.visible()) else set()

    def _remove_missing(self, state: _Service, missing: list[_Slot], before: int, now: float) -> None:
        """Drop what a list lacks, unless that is too much at once; what was held long enough is confirmed."""
        confirmed = [slot for slot in missing if slot.phase is Phase.HELD and slot.until <= now]
        fresh = [slot for slot in missing if slot.phase in (Phase.SHOWN, Phase.LINGERING)]
        for slot in confirmed:
            del state.slots[slot.member.id]
        after = len(state.slots) - len(fresh)
        if fresh and self._is_too_much(state, before - len(confirmed), after, now):
            for slot in fresh:
                slot.phase, slot.until = Phase.HELD, now + self._rules.confirm_after
            return
        for slot in fresh:
            del state.slots[slot.member.id]

    def _is_too_much(self, state: _Service, before: int, after: int, now: float) -> bool:
        """Judge the net loss: instances replaced, one for one, while we were away are no empty push."""
        state.removals = [(when, many) for when, many in state.removals if now - when < self._rules.window]
        recent = sum(many for _, many in state.removals)
        lost = max(0, before - after)
        if after == 0 or lost + recent > self._rules.max_removal_ratio * (before + recent):
            return True
        state.removals.append((now, lost))
        return False

    # Small things

    def _service(self, service: str) -> _Service:
        return self._services.setdefault(service, _Service())

    def _slots(self) -> Iterable[_Slot]:
        return (slot for state in self._services.values() for slot in state.slots.values())

    def _show_additions(self, service: str, state: _Service) -> set[str]:
        adding = [slot for slot in state.slots.values() if slot.phase is Phase.ADDING]
        for slot in adding:
            slot.phase, slot.until = Phase.SHOWN, inf
        state.first_addition = state.show_at = inf
        return {service} if adding else set()

    def _is_flapping(self, state: _Service, member_id: str, now: float) -> bool:
        times = [when for when in state.deletions.get(member_id, ()) if now - when < self._rules.flap_window]
        state.deletions[member_id] = [*times, now]
        return len(times) + 1 >= self._rules.flaps

    def _forget(self, state: _Service, now: float) -> None:
        state.removals = [(when, many) for when, many in state.removals if now - when < self._rules.window]
        oldest = now - self._rules.flap_window
        for member_id in [name for name, times in state.deletions.items() if times[-1] < oldest]:
            del state.deletions[member_id]

    def __repr__(self) -> str:
        held = sum(self.held().values())
        return f"<Protection | {len(self._services)} services, {held} members held>"
