"""The server's settings: a strict YAML file, and command-line flags that override it.

address: 127.0.0.1:8500
repository: models
models: [digits=1]            # default: everything in the repository
threads: 2
memory: 2GiB
registry: {url: etcd://127.0.0.1:2379, service: digits, version: v1}
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backends.card import VersionPolicy
from backends.repository import ALL, Choice
from backends.strict_yaml import Data, Seconds, Size

TTL, DRAIN = Seconds(10.0), Seconds(10.0)
MAX_BODY = Size(16 << 20)

Device = Literal["auto", "cpu", "cuda", "tensorrt"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or be reached; port 0 lets the system choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `HOST:PORT` or `[IPv6]:PORT`. ValueError for anything else."""
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (host and colon and port.isdecimal() and int(port) < 65536):
            raise ValueError(f"expected HOST:PORT, got {text!r}")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Where this backend announces itself while it serves."""

    url: str  # http://HOST:PORT of a gateway's admin API, or etcd://HOST:PORT[,HOST:PORT][/NAMESPACE]
    service: str  # the name that pools look for
    version: str = ""  # of the service, such as v1; default: v + the version of the only model
    labels: Mapping[str, str] = field(default_factory=dict)  # shown to those who look
    weight: int = 100  # share of the traffic, relative to other instances
    ttl: Seconds = TTL  # a crashed backend is gone from its pool after this time
    token: str = ""  # for a registry that asks for one; default: the environment's HEADGATE_ADMIN_TOKEN
    advertise: Address | None = (
        None  # where gateways reach this backend; default: the address that it listens on
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """One server process."""

    repository: str = "models"  # the folder of models, or a URL that fsspec knows: s3://bucket/models
    storage: Mapping[str, Data] = field(default_factory=dict)  # options of that URL's file system
    cache: Path | None = None  # where a remote repository is copied to, and TensorRT's engines are kept
    models: tuple[Choice, ...] = ()  # NAME or NAME=VERSION; default: everything in the repository
    versions: VersionPolicy = ALL  # all, latest N, specific N N …; of models whose card says nothing
    poll: Seconds | None = None  # look for changes in the repository so often; default: never
    control: bool = False  # clients may load and unload models (V2's repository API)
    address: Address = Address("127.0.0.1", 8500)  # where to listen
    grpc_address: Address | None = None  # where gRPC is spoken (V2, TensorFlow Serving); default: nowhere
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)  # engine calls at the same time
    log_level: LogLevel = "info"  # of the log on stderr
    device: Device = "auto"  # where models run; auto: CUDA where it works, else CPU
    memory: Size | None = None  # of the process's own data, from the kernel's limit; default: none
    half: bool = False  # TensorRT may compute in FP16
    gpu_memory: Size | None = None  # of ONNX Runtime's CUDA arena, per model version; default: none
    max_body: Size = MAX_BODY  # a longer request is answered 413
    drain: Seconds = DRAIN  # after SIGTERM, requests in flight have this long to finish
    registry: RegistrySettings | None = None  # default: announce nothing

    def __post_init__(self) -> None:
        if self.threads < 1 or self.max_body < 1:
            raise ValueError("threads and max_body are at least 1")
        if self.poll is not None and self.poll <= 0:
            raise ValueError("poll is a time above zero")
