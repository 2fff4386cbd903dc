from __future__ import annotations

import json
import re

import pytest
from jsonschema import Draft202012Validator

from gateway.config.json_schema import overrides_schema, policies_schema, write_schema
from gateway.config.load import load
from gateway.config.yaml_tree import Mapping, Scalar, parse_yaml
from tests.config import examples
from tests.config.sample_kinds import KINDS

POLICIES = Draft202012Validator(policies_schema(KINDS))
OVERRIDES = Draft202012Validator(overrides_schema(KINDS))
NUMBER = re.compile(r"[-+]?(\d+)(\.\d*)?([eE][-+]?\d+)?")


def data(node):
    """What an editor with a YAML 1.2 core schema hands to its JSON Schema validator."""
    if isinstance(node, Mapping):
        return {key.text: data(value) for key, value in node.entries}
    if not isinstance(node, Scalar):
        return [data(item) for item in node.items]
    if node.is_null:
        return None
    if node.quoted or not (NUMBER.fullmatch(node.text) or node.text in ("true", "false")):
        return node.text
    return json.loads(node.text) if not node.text.startswith("0") else float(node.text)


def is_valid(validator, text):
    root, problems = parse_yaml(text, "a")
    assert not problems
    return validator.is_valid(data(root))


def test_the_schemas_are_schemas():
    Draft202012Validator.check_schema(POLICIES.schema)
    Draft202012Validator.check_schema(OVERRIDES.schema)


@pytest.mark.parametrize(
    "text", [examples.GATEWAY, examples.DIGITS, examples.WHO, examples.HOUSE_RULES, "{}"]
)
def test_the_examples_of_the_documentation_validate(text):
    assert is_valid(POLICIES, text)


def test_the_example_of_overrides_validates_and_needs_its_end():
    assert is_valid(OVERRIDES, examples.OVERRIDES)
    assert not is_valid(OVERRIDES, "digits: {throttle: 20/s}")


GOOD = [
    "x-anything: [1]",
    "endpoints:",
    "plans: {free: }",
    "registry: {etcd: {servers: [http://a:1], user: u, password: '${env:HEADGATE_ADMIN_TOKEN}'}}",
    "registry: {file: instances.yaml}",
    "listen: {admin: 127.0.0.1:1}",
    "limits: {body_bytes: 64KiB, url_bytes: 4096, drain: 0}",
    "log: {sample: 0.5, access: off}",
    "stores: {counters: redis://h/0, cache: {url: memory, size: 1MiB}}",
    "pools: {a: {instances: [{address: 1.2.3.4:80, weight: 2}, 1.2.3.4:81], breaker: off}}",
    "pools: {a: {instances: 1.2.3.4:80, version: 1.10, breaker: {slow: {over: 5s}}}}",
    "pools: {a: {instances: 1.2.3.4:80}}\nendpoints: {e: {match: /x/**, send: {a: 100%}, cache: 30s}}",
    "pools: {a: {instances: 1.2.3.4:80}}\n"
    "endpoints: {e: {model: e, versions: {1.10: a}, throttle: {rate: 5/s, burst: 3}, safe_to_retry: }}",
    "principals: {p: {may: '*', importance: critical}}",
    "policies: {p: {applies_to: '*', throttle: 5/s, from: 2026-01-01, until: '2026-01-02 10:00Z'}}",
]

BAD = [
    "endpints: {}",
    "listen: {http: 8080}",
    "listen: {http: nowhere}",
    "listen: {admin: {token: hunter2}}",
    "limits: {pipelined: 0}",
    "limits: {pipelined: many}",
    "limits: {drain: 5}",
    "log: {level: loud}",
    "log: [a]",
    "pools: {a: {find: x, speaks: kserve}}",
    "pools: {a: {find: x, throttle: 5/s}}",
    "endpoints: {e: {model: e, timout: 5s}}",
    "endpoints: {e: {model: e, timeout: 5}}",
    "endpoints: {e: {model: e, cache: {scope: shared}}}",
    "endpoints: {e: {model: e, breaker: {min_calls: 1.5}}}",
    "endpoints: {e: {model: e, authenticate: jwt}}",
    "endpoints: {e: {model: [e]}}",
    "issuers: {i: {issuer: a}}",
    "policies: {p: {throttle: 5/s}}",
    "policies: {p: {applies_to: {endpoint: a}, throttle: 5/s}}",
    "policies: {p: {applies_to: '*', enforce: maybe, throttle: 5/s}}",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_the_decoder_accepts_the_schema_accepts(tmp_path, text):
    assert load(examples.write(tmp_path, a=text), KINDS, examples.ENV).report() == ""
    assert is_valid(POLICIES, text)


@pytest.mark.parametrize("text", BAD)
def test_what_the_schema_refuses_the_decoder_refuses(tmp_path, text):
    assert load(examples.write(tmp_path, a=text), KINDS, examples.ENV).errors
    assert not is_valid(POLICIES, text)


def test_editors_can_explain_every_key():
    def keys(shape, path):
        for name, one in shape.get("properties", {}).items():
            yield f"{path}.{name}", one
        for part in ("anyOf", "allOf"):
            for one in shape.get(part, []):
                yield from keys(one, path)

    shapes = {"top": POLICIES.schema, **POLICIES.schema["$defs"]}
    unexplained = [
        at for name, shape in shapes.items() for at, one in keys(shape, name) if "description" not in one
    ]
    assert unexplained == []


def test_the_text_is_json_and_stable():
    assert write_schema(KINDS) == write_schema(KINDS)
    assert json.loads(write_schema(KINDS))["properties"]["endpoints"]["description"]
