"""The policy language's examples as the documentation has them, file by file."""

from __future__ import annotations

from pathlib import Path

GATEWAY = """\
listen:
  http: 127.0.0.1:8080            # clients
  admin: {address: 127.0.0.1:9080, token: "${env:HEADGATE_ADMIN_TOKEN}"}
registry: local                   # built in, leases, one machine
stores: {counters: memory, cache: memory}
log: {level: info, access: stdout}
"""

DIGITS = """\
pools:
  digits-v1:   {find: digits, version: v1, speaks: kserve-v2}        # found in the registry
  digits-v2:   {find: digits, version: v2, speaks: kserve-v2}
  digits-lite: {instances: [127.0.0.1:9103], speaks: tensorflow-serving}
endpoints:
  digits:
    model: digits
    versions: {1: digits-v1, 2: digits-v2}
    labels: {stable: 1, canary: 2}
    send: stable
    throttle: [50/s, 5/s per principal burst 5, 20000 rows/min per tenant]
    importance: normal
    timeout: 2s
    safe_to_retry: true
    cache: {ttl: 30s, stale_while_revalidate: 30s, stale_if_error: 10m, scope: principal}
    breaker: {errors: 50%, slow: {over: 500ms, ratio: 50%}, min_calls: 20, cool_down: 5s}
    degrade:
      when: [breaker_open, overloaded, timeout]
      steps: [{pool: digits-lite}, {stale: 10m}, {throttle: 5/s}, {respond: {status: 503, retry_after: 5s}}]
"""

WHO = f"""\
plans: {{free: {{}}, pro: {{}}}}
principals:
  alice: {{plan: free, tenant: acme, keys: ["sha256:{"ab" * 32}"], may: {{models: [digits]}},
          expires: "2027-01-01"}}
issuers:
  corp: {{issuer: "https://id.example", audiences: [gateway], jwks: "https://id.example/jwks.json",
         algorithms: [RS256, ES256], claims: {{principal: sub, plan: plan, tenant: org}}}}
"""

HOUSE_RULES = """\
policies:
  sign-in:   {applies_to: {endpoints: "*"}, authenticate: [api_key, jwt],
              allow: {addresses: [10.0.0.0/8, 127.0.0.0/8]}}
  free-tier: {applies_to: {plans: [free]}, throttle: [5/s per principal burst 5]}
  release-v2:
    applies_to: {endpoints: [digits]}
    release:
      kind: canary
      stable: stable
      candidate: newest
      ramp: [5%, 25%, 50%, 100%]
      sticky: principal
      judge: {errors: 1.25x, latency_p99: 1.2x, predictions: {max_abs: 0.001, sample: 10%}, false_alarm: 1%}
      on_fail: rollback
"""

OVERRIDES = """\
digits: {throttle: 20/s, degrade: digits-lite, until: "2026-11-22 18:00Z"}
"""

ENV = {"HEADGATE_ADMIN_TOKEN": "not-for-eyes"}


def write(folder: Path, **files: str) -> Path:
    """Write `name=text` as name.yaml (underscores become hyphens) and return the folder."""
    for name, text in files.items():
        (folder / f"{name.replace('_', '-')}.yaml").write_text(text)
    return folder


def write_all(folder: Path) -> Path:
    """Write every example."""
    return write(
        folder, gateway=GATEWAY, digits=DIGITS, who=WHO, house_rules=HOUSE_RULES, overrides=OVERRIDES
    )
