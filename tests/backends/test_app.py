from __future__ import annotations

from unittest.mock import Mock

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.app import KNOWN_URLS, App
from backends.dialect import Dialect
from backends.errors import Invalid
from backends.kserve_v2 import KServeV2
from backends.tensorflow_serving import TensorFlowServing
from tests.backends.conftest import Loader
from tests.backends.models import DIGITS, adder, echo, put


@pytest.fixture
async def app(load: Loader) -> App:
    return App(load(DIGITS), load.executor, max_body=1 << 20, server_version="0.1")


async def ask(app: App, method: str, path: str) -> web.Response:
    response = await app.handle(make_mocked_request(method, path))
    assert isinstance(response, web.Response)
    return response


async def test_a_bug_is_a_500_without_details_and_a_trace_in_the_log(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(KServeV2, "get", Mock(side_effect=KeyError("secret detail")))
    response = await ask(app, "GET", "/v2/models/digits")
    assert (response.status, response.body) == (500, b'{"error":"internal error"}')
    assert "secret detail" in caplog.text


async def test_draining_turns_readiness_off_and_closes_connections_but_answers(app: App) -> None:
    assert (await ask(app, "GET", "/v2/health/ready")).status == 200
    app.drain()
    response = await ask(app, "GET", "/v2/health/ready")
    assert response.status == 503
    assert response.keep_alive is False
    assert (await ask(app, "GET", "/v2/health/live")).status == 200
    assert (await ask(app, "GET", "/v2/models/digits")).status == 200


async def test_spellings_of_an_url_do_not_fill_the_memory(app: App) -> None:
    name = "/v1/models/digits:predict"
    for number in range(KNOWN_URLS + 50):
        spelled = "".join(
            letter.upper() if number >> place & 1 else letter for place, letter in enumerate(name[4:10])
        )
        version = f"/versions/{'0' * (number // 64)}1" if number else ""
        path = f"/v1/{spelled}/digits{version}:predict"
        await ask(app, "POST", path)
    assert len(app._known) <= KNOWN_URLS


# Any body is read or refused: nothing that a client sends is a bug

WORDS = [
    "x",
    "y",
    "left",
    "id",
    "name",
    "datatype",
    "shape",
    "data",
    "inputs",
    "outputs",
    "instances",
    "parameters",
    "binary_data_size",
    "binary_data",
    "b64",
    "signature_name",
    "FP32",
    "INT64",
    "BYTES",
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.sampled_from(WORDS),
    st.text(max_size=4),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)
V2_INPUT = st.fixed_dictionaries(
    {"name": st.sampled_from(["x", "z"])},
    optional={
        "datatype": st.sampled_from(["FP32", "INT64", "BYTES", 1]),
        "shape": st.one_of(st.lists(st.integers(-1, 3), max_size=3), VALUES),
        "data": VALUES,
        "parameters": st.one_of(VALUES, st.fixed_dictionaries({"binary_data_size": st.integers(-1, 9)})),
    },
)
BODIES = st.one_of(
    VALUES,
    st.fixed_dictionaries({"instances": VALUES}),
    st.fixed_dictionaries({"inputs": VALUES}, optional={"signature_name": VALUES}),
    st.fixed_dictionaries(
        {"inputs": st.lists(V2_INPUT, max_size=2)}, optional={"outputs": VALUES, "id": VALUES}
    ),
)


@pytest.mark.parametrize("dialect_name", ["kserve", "tensorflow"])
@pytest.mark.parametrize("dtype", [1, 7, 8], ids=["FP32", "INT64", "BYTES"])
async def test_any_json_is_read_or_refused(
    load: Loader, tmp_path_factory: pytest.TempPathFactory, dialect_name: str, dtype: int
) -> None:
    repository = tmp_path_factory.mktemp("models")
    put(repository, "echo", "1", echo(dtype))
    put(repository, "add", "1", adder())
    catalogue = load(repository)
    dialect: Dialect = (
        KServeV2(catalogue, "0.1") if dialect_name == "kserve" else TensorFlowServing(catalogue)
    )

    @given(body=BODIES, raw=st.binary(max_size=9), name=st.sampled_from(["echo", "add"]))
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    def check(body: object, raw: bytes, name: str) -> None:
        served, header = catalogue.find(name), orjson.dumps(body)
        fields = {"Inference-Header-Content-Length": str(len(header))} if raw else {}
        try:
            inference = dialect.read(header + raw, fields, served)
        except Invalid:
            return
        reply = dialect.write(served, inference, served.engine.run(inference.inputs))
        assert reply.status == 200

    check()
