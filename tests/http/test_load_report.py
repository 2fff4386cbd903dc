"""Load headers in all their forms; what can't be read says nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.load_report import read_load
from gateway.http.message import Response


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (b"x-headgate-load", b"running=3, waiting=4", (3, 4)),
        (b"x-headgate-load", b"running=3", (3, 0)),
        (b"x-headgate-load", b"running=0,waiting=0", (0, 0)),
        (b"endpoint-load-metrics", b"TEXT cpu_utilization=0.3, named_metrics.num_requests_waiting=4", (0, 4)),
        (b"endpoint-load-metrics", b"TEXT named_metrics.vllm:num_requests_running=2", (2, 0)),
        (
            b"endpoint-load-metrics",
            b'JSON {"eps": 0.3, "named_metrics": {"vllm:num_requests_running": 2.0, "queued": 1}}',
            (2, 1),
        ),
        (b"endpoint-load-metrics", b"TEXT cpu_utilization=0.3", None),
        (b"endpoint-load-metrics", b'JSON {"named_metrics": 3}', None),
        (b"endpoint-load-metrics", b"JSON [1]", None),
        (b"endpoint-load-metrics", b"JSON {", None),
        (b"endpoint-load-metrics", b"BIN CgkJ", None),
        (b"x-headgate-load", b"running=many", None),
        (b"x-headgate-load", b"running=-3", None),
        (b"x-headgate-load", b"running=nan", None),
        (b"x-headgate-load", b"running=1e99", None),
        (b"x-headgate-load", b"running=1" + b" " * 3000, None),
        (b"other", b"running=3", None),
    ],
)
def test_what_a_header_says_of_calls(name, value, said):
    assert read_load(Response(200, [(name, value)], b"")) == said


@given(st.sampled_from([b"", b"TEXT ", b"JSON "]), st.binary(max_size=80))
def test_no_header_is_a_reason_to_fail(form, value):
    said = read_load(Response(200, [(b"endpoint-load-metrics", form + value)], b""))
    assert said is None or min(said) >= 0
