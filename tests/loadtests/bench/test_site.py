"""Words in configurations, keys in every format."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from loadtests.bench import peers, site

WORDS = ("PORT", "ADMIN", "RUN", "LOG", "STABLE", "CANARY", "KEYS", "CREDENTIALS")
TLS = ("CERTIFICATE", "PRIVATE", "PEM")


def test_words_are_put_in_and_an_unknown_one_is_an_error() -> None:
    assert site.fill_in("listen @PORT@; # a@b", {"PORT": "9000"}) == "listen 9000; # a@b"
    with pytest.raises(KeyError):
        site.fill_in("@NOBODY@", {})


@pytest.mark.parametrize(
    "template",
    [path for path in site.PEERS.glob("*/*.*") if path.suffix != ".py"],
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
def test_every_configuration_asks_only_for_words_that_the_bench_knows(template: Path) -> None:
    words = {name: f"<{name}>" for name in (*WORDS, *TLS)}
    filled = site.fill_in(template.read_text(), words)
    assert "<PORT>" in filled or template.parent.name in ("litellm", "relay", "varnish")  # in the command
    assert filled.startswith("# ")  # says what work it is for


def test_the_last_key_is_the_limited_tenants_and_all_others_are_spread_evenly() -> None:
    known = site.tenants(1000)
    assert list(known.values())[-1] == site.LIMITED
    counts = Counter(known.values())
    assert counts.pop(site.LIMITED) == 1
    assert set(counts.values()) == {10}


def test_every_gateway_gets_the_same_keys(tmp_path: Path) -> None:
    site.write_keys(tmp_path, 200)
    known = site.tenants(200)
    nginx = dict(line.rstrip(";").split() for line in (tmp_path / "nginx.map").read_text().splitlines())
    haproxy = dict(line.split() for line in (tmp_path / "haproxy.map").read_text().splitlines())
    envoy = {one["key"]: one["client"] for one in json.loads((tmp_path / "envoy.json").read_text())}
    assert nginx == haproxy == envoy == known
    principals = yaml.safe_load((tmp_path / "keys.yaml").read_text())["principals"]
    hashes = {key: name for name, one in principals.items() for key in one["keys"]}
    assert hashes == {
        f"sha256:{hashlib.sha256(key.encode()).hexdigest()}": tenant for key, tenant in known.items()
    }
    assert [name for name, one in principals.items() if one["plan"] == "small"] == [site.LIMITED]


@pytest.mark.parametrize("count", [1, 10, 1000, 10_000], ids=str)
def test_a_load_takes_targets_and_keys_in_turn_from_all_there_are(count: int) -> None:
    lines = site.turns([f"/t{number}" for number in range(count)], keys=count).splitlines()
    assert len(lines) == site.IN_TURN
    targets, keys = zip(*(line.split() for line in lines), strict=True)
    assert len(set(targets)) == len(set(keys)) == min(count, site.IN_TURN)
    numbers = [int(target[2:]) for target in targets]
    assert max(numbers) >= count - count // site.IN_TURN - 1  # up to the last
    assert set(keys) <= set(site.tenants(count))


def test_a_peer_can_do_what_it_has_a_configuration_for() -> None:
    assert peers.ALL["nginx"].variants() == {"plain", "policy", "cache", "tls"}
    assert peers.ALL["headgate"].variants() == peers.ALL["headgate-pure"].variants()
    assert "policy" not in peers.ALL["caddy"].variants()


def test_a_missing_peer_says_how_to_get_it() -> None:
    absent = peers.Peer("x", "X", (), "no-such-program", "make peers", ())
    assert absent.missing() == "make peers"
    assert peers.ALL["aiohttp"].missing() is None
