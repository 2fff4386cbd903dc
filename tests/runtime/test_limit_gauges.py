from gateway.filters.quota import KIND as QUOTA
from gateway.filters.quota import Quota
from gateway.filters.throttle import KIND as THROTTLE
from gateway.filters.throttle import Throttle
from gateway.governance.allowance import MemoryLedger
from gateway.pipeline.ports import Principal
from gateway.pipeline.quotas import Quotas
from gateway.runtime.limit_gauges import limits
from tests.fakes.traffic import Traffic


def test_what_limits_did_is_told_by_policy_and_limit_and_never_by_whose_they_are() -> None:
    traffic = Traffic()
    quotas = Quotas(MemoryLedger(), traffic.clock.wall)
    traffic.parts.quotas = quotas
    traffic.use(THROTTLE, Throttle.from_text("1/s per principal burst 2"), policy="fast")
    traffic.use(QUOTA, Quota.from_text("4/day per principal"), policy="much")
    for name in ("alice", "bob", "carol"):
        for _ in range(3):
            traffic.send(principal=Principal(name))
    told = {
        (sample.name, *sample.labels.values()): sample.value
        for family in limits(traffic._snapshot(), traffic.local, quotas)
        for sample in family.samples
    }
    throttle, quota = (
        ("digits", "fast", "1/s per principal burst 2"),
        ("digits", "much", "4/day per principal"),
    )
    assert told["headgate_limit_passed_total", *throttle] == 6
    assert told["headgate_limit_refused_total", *throttle] == 3
    assert told["headgate_limit_refused_total", *quota] == 0
    assert told["headgate_quota_left_ratio", "much", "day UTC"] == 0.5  # what was refused came back
    assert len(told) == 9
