"""Load headers in all their forms; what can't be read says nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.load_report import read_load
from gateway.http.message import Response


@pytest.mark.parametrize(
    ("name", "value", "calls"),
    [
        (b"x-headgate-load", b"running=3, waiting=4", 7),
        (b"x-headgate-load", b"running=3", 3),
        (b"x-headgate-load", b"running=0,waiting=0", 0),
        (b"endpoint-load-metrics", b"TEXT cpu_utilization=0.3, named_metrics.num_requests_waiting=4", 4),
        (b"endpoint-load-metrics", b"TEXT named_metrics.vllm:num_requests_running=2", 2),
        (
            b"endpoint-load-metrics",
            b'JSON {"eps": 0.3, "named_metrics": {"vllm:num_requests_running": 2.0, "queued": 1}}',
            3,
        ),
        (b"endpoint-load-metrics", b"TEXT cpu_utilization=0.3", -1),
        (b"endpoint-load-metrics", b'JSON {"named_metrics": 3}', -1),
        (b"endpoint-load-metrics", b"JSON [1]", -1),
        (b"endpoint-load-metrics", b"JSON {", -1),
        (b"endpoint-load-metrics", b"BIN CgkJ", -1),
        (b"x-headgate-load", b"running=many", -1),
        (b"x-headgate-load", b"running=-3", -1),
        (b"x-headgate-load", b"running=nan", -1),
        (b"x-headgate-load", b"running=1e99", -1),
        (b"x-headgate-load", b"running=1" + b" " * 3000, -1),
        (b"other", b"running=3", -1),
    ],
)
def test_what_a_header_says_of_calls(name, value, calls):
    assert read_load(Response(200, [(name, value)], b"")) == calls


@given(st.sampled_from([b"", b"TEXT ", b"JSON "]), st.binary(max_size=80))
def test_no_header_is_a_reason_to_fail(form, value):
    assert read_load(Response(200, [(b"endpoint-load-metrics", form + value)], b"")) >= -1
