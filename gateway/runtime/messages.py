"""What the supervisor and its workers say to each other: one struct per message, MessagePack on the wire.

    worker                                   supervisor
      Hello ──────────────────────────────────► (its version and who it is)
      (policies, members, who is unwell) ◄────── Welcome
      Ready ──────────────────────────────────► (it serves)
      Beat, Counted, Draw, Seen ──────────────►  Drawn, Members, Unwell, Seen, Ask ──► Told
      Tallied, Paid, Outdated ────────────────►  the same, to all others
      Evidence, Holding ──────────────────────►  Released (the weight of a release)
      Prepared ◄─ Prepare, then Commit or Abort (all workers take new policies, or none)
      (ends) ◄────────────────────────────────── Leave

Strict: unknown messages and fields are errors. `VERSION` changes with every change here; a worker of another
version is told in the answer to its Hello, and ends (a rolling restart onto changed code then stops, and the
old workers go on). Sets travel whole, never as deltas: a message that is repeated changes nothing.
"""

from __future__ import annotations

import hashlib
from typing import Literal, TypeAlias

import msgspec

from gateway.governance.leases import Answer
from gateway.governance.meters import Payment
from gateway.pipeline.releases import Drifted, Gathered
from gateway.pipeline.releases import Told as ReleaseTold
from gateway.stores.leased import Draw
from gateway.telemetry.families import Family


class _Message(msgspec.Struct, frozen=True, tag=True, array_like=True, forbid_unknown_fields=True):
    """Common ground."""


Question: TypeAlias = Literal["instances", "purge", "explain", "quotas"]

Files: TypeAlias = dict[str, bytes]
"""The policy files by name: what the supervisor read and every worker builds from."""


class Sighting(msgspec.Struct, frozen=True, array_like=True):
    """What a worker's traffic found out about an instance. until: s on the host's monotonic clock."""

    pool: str
    instance: str
    what: Literal["ejected", "opened", "closed"]
    until: float


class Tally(msgspec.Struct, frozen=True, array_like=True):
    """What a worker's calls of an instance came to since it last told. instance "": of the whole pool."""

    pool: str
    instance: str
    successes: int
    failures: int
    slow: int


# From a worker


class Hello(_Message, frozen=True):
    """The first message: of which version, and who."""

    version: str
    slot: int
    pid: int


class Ready(_Message, frozen=True):
    """It serves."""


class Failed(_Message, frozen=True):
    """It can't start; it ends with this exit code."""

    code: int
    why: str


class Beat(_Message, frozen=True):
    """It lives. draining: it is on its way out."""

    connections: int
    in_flight: int
    draining: bool


class Counted(_Message, frozen=True):
    """Its metrics now."""

    families: tuple[Family, ...]


class Drawing(_Message, frozen=True):
    """Tokens: see stores/leased.py."""

    draw: Draw


class Prepared(_Message, frozen=True):
    """Whether it could build the policies of this round."""

    round: int
    errors: tuple[str, ...]


class Told(_Message, frozen=True):
    """The answer to an Ask, as JSON."""

    number: int
    answer: bytes


class Saw(_Message, frozen=True):
    """What it found out."""

    sightings: tuple[Sighting, ...]


class Tallied(_Message, frozen=True):
    """What its calls came to."""

    tallies: tuple[Tally, ...]


class Paid(_Message, frozen=True):
    """Bytes that passed a worker, by bucket of bandwidth."""

    payments: tuple[Payment, ...]


class Outdated(_Message, frozen=True):
    """What a request with an unsafe method made untrue: a tag of cached answers."""

    what: str


class Evidence(_Message, frozen=True):
    """What requests said of releases since the last time, and of what predicts otherwise."""

    gathered: tuple[Gathered, ...]
    drifted: tuple[Drifted, ...]


class Holding(_Message, frozen=True):
    """Requests of this release wait for its flip, as this revision asked for."""

    release: str
    revision: int


# From the supervisor


class Welcome(_Message, frozen=True):
    """All that a worker needs to start.

    files: the running policies. started: those that what only a restart changes is made from; None: the same.
    overruled: the command line's options. sockets: per listener the descriptors of its sockets, one per slot.
    workers: how many there are. members: per service the id and value of each, as registries write them.
    lock: the descriptor that a pipe's writers lock, see telemetry/access_log.py.
    """

    version: str
    folder: str
    files: Files
    started: Files | None
    overruled: dict[str, str | None]
    sockets: dict[str, tuple[int, ...]]
    workers: int
    lock: int
    members: dict[str, tuple[tuple[str, bytes], ...]]
    unwell: tuple[tuple[str, str], ...]
    sightings: tuple[Sighting, ...]
    releases: tuple[ReleaseTold, ...]


class Members(_Message, frozen=True):
    """The members of a service: id and value of each, as registries write them."""

    service: str
    members: tuple[tuple[str, bytes], ...]


class Unwell(_Message, frozen=True):
    """The instances that fail their health checks: pool and id."""

    instances: tuple[tuple[str, str], ...]


class Drawn(_Message, frozen=True):
    """The lender's answers to a Drawing."""

    number: int
    answers: tuple[Answer, ...]


class Prepare(_Message, frozen=True):
    """Build these policies, but don't run them."""

    round: int
    files: Files


class Commit(_Message, frozen=True):
    """Run what was prepared."""

    round: int


class Abort(_Message, frozen=True):
    """Forget what was prepared."""

    round: int


class Ask(_Message, frozen=True):
    """Answer with Told. text: JSON of what it needs to know."""

    number: int
    what: Question
    text: bytes


class Count(_Message, frozen=True):
    """Send your metrics."""


class Cover(_Message, frozen=True):
    """Accept from these slots' sockets as well as your own: their workers are gone for the moment."""

    slots: tuple[int, ...]


class Released(_Message, frozen=True):
    """The weight of a release."""

    told: ReleaseTold


class Leave(_Message, frozen=True):
    """Stop accepting, let requests end for `grace` s, and end. farewell: s that idle connections may stay."""

    grace: float
    farewell: float


FromWorker: TypeAlias = (
    Hello
    | Ready
    | Failed
    | Beat
    | Counted
    | Drawing
    | Prepared
    | Told
    | Saw
    | Tallied
    | Paid
    | Outdated
    | Evidence
    | Holding
)
FromSupervisor: TypeAlias = (
    Welcome
    | Outdated
    | Members
    | Unwell
    | Drawn
    | Prepare
    | Commit
    | Abort
    | Ask
    | Count
    | Cover
    | Leave
    | Saw
    | Tallied
    | Paid
    | Released
)

_encoder = msgspec.msgpack.Encoder()
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
_from_supervisor: msgspec.msgpack.Decoder[FromSupervisor] = msgspec.msgpack.Decoder(FromSupervisor)

_KINDS: tuple[type[msgspec.Struct], ...] = (Sighting, Tally, *_Message.__subclasses__())

VERSION = hashlib.blake2b(
    repr(
        [
            (kind.__name__, [(field.name, str(field.type)) for field in msgspec.structs.fields(kind)])
            for kind in _KINDS
        ]
    ).encode(),
    digest_size=8,
).hexdigest()
"""A digest of all messages' fields: two programs that agree in it understand each other."""


class BadMessage(Exception):
    """The other side says what we don't understand."""


def encode(message: FromWorker | FromSupervisor) -> bytes:
    """Write a message."""
    return _encoder.encode(message)


def read_from_worker(data: bytes) -> FromWorker:
    """Read what a worker says. Raises BadMessage."""
    try:
        return _from_worker.decode(data)
    except msgspec.DecodeError as error:
        raise BadMessage(str(error)) from error


def read_from_supervisor(data: bytes) -> FromSupervisor:
    """Read what the supervisor says. Raises BadMessage."""
    try:
        return _from_supervisor.decode(data)
    except msgspec.DecodeError as error:
        raise BadMessage(str(error)) from error
