"""A thousand questions, each written in every way: one key each, and no two questions on one.

Every dialect of the catalogue writes each question and reads it again: a new dialect takes part by being in
the catalogue. Beside that, JSON as people write it: numbers spelled at random, members in any order, lists
nested or flat, blanks. Seeded, so that a failure can be repeated.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from gateway.dialects.canonical import canonical_key
from gateway.dialects.catalogue import DIALECTS, KSERVE_V2, TENSORFLOW_SERVING
from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.metadata import Signature, TensorSpec
from gateway.dialects.protocol import Dialect, Operation, Target
from gateway.dialects.tensors import NUMPY, InferRequest, Tensor
from tests.dialects.models import a_request

QUESTIONS = 1000
CARELESS = 4  # spellings at random of each
CANT_SAY_ALL = {"torchserve-grpc": 800}  # halves
"""Dialects that have no words for some of these questions, and how many they say at least."""

FLOATS = (0.0, 1.0, -1.0, 0.5, 0.1, 100.0, 1e-3, -2.25, 3.0, 1e10, 7.0)
WHOLE = (0, 1, 2, 3, 7, 100, 127)
DTYPES = ("FP32", "FP32", "FP64", "FP16", "INT8", "INT32", "INT64", "UINT8", "BOOL")

Question = tuple[InferRequest, Signature]


def a_question(rng: random.Random) -> Question:
    """One or two tensors with a common batch axis."""
    rows = rng.randint(1, 3)
    inputs = []
    for name in ("x", "n")[: rng.choice((1, 1, 2))]:
        dtype = rng.choice(DTYPES)
        shape = (rows, *(rng.randint(1, 3) for _ in range(rng.randint(0, 2))))
        pool = FLOATS if dtype.startswith("FP") else (False, True) if dtype == "BOOL" else WHOLE
        if dtype == "FP16":
            pool = tuple(value for value in FLOATS if abs(value) < 1000)
        data = np.array([rng.choice(pool) for _ in range(int(np.prod(shape)))], NUMPY[dtype]).reshape(shape)
        inputs.append(Tensor(name, dtype, shape, data))
    specs = [TensorSpec(one.name, one.dtype, (-1, *one.shape[1:])) for one in inputs]
    return a_request(*inputs, model="m"), Signature(tuple(specs), ())


def identity(question: Question) -> object:
    """What makes a question another one."""
    return frozenset((one.name, one.dtype, one.shape, one.data.tobytes()) for one in question[0].inputs)


def questions() -> list[Question]:
    rng = random.Random(20261122)
    found: dict[object, Question] = {}
    while len(found) < QUESTIONS:
        one = a_question(rng)
        found.setdefault(identity(one), one)
    return list(found.values())


def key(request: InferRequest) -> bytes:
    return canonical_key(request, "m", "1", b"")


# Written by the dialects


def said(dialect: Dialect, question: Question) -> InferRequest | None:
    """Let a dialect write a question and read it again, None where it can't say it."""
    infer, signature = question
    try:
        call = dialect.write_request(infer, "m", None)
    except InvalidPrediction:
        return None
    target = Target(dialect, Operation.INFER, "m")
    read = dialect.read_request(target, call.headers, call.body, signature)
    same = [(one.name, one.dtype, one.shape) for one in infer.inputs]
    # What a dialect without names or shapes can't tell from another question is another question there.
    return read if sorted(same) == sorted((one.name, one.dtype, one.shape) for one in read.inputs) else None


# Written by people


def number(rng: random.Random, value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    plain = float(value)  # type: ignore[arg-type]
    ways = [repr(plain), f"{plain:.17e}"]
    if plain == int(plain):
        whole = int(plain)
        ways += [str(whole), f"{whole}.0", f"{whole}e0", f"{whole}E+00", f"{whole}.000"]
    if plain == 0:
        ways += ["-0.0", "0e5"]
    return rng.choice(ways)


def nested(rng: random.Random, values: object) -> str:
    if isinstance(values, list):
        return f"[{blank(rng)}{(',' + blank(rng)).join([nested(rng, value) for value in values])}]"
    return number(rng, values)


def blank(rng: random.Random) -> str:
    return rng.choice(("", "", " ", "\n\t"))


def members(rng: random.Random, *texts: str) -> str:
    return f"{{{(',' + blank(rng)).join(rng.sample(texts, len(texts)))}{blank(rng)}}}"


def tfs_row(rng: random.Random, infer: InferRequest) -> str:
    values = [(one.name, one.data.tolist()) for one in infer.inputs]
    rows = [
        members(rng, *(f'"{name}":{nested(rng, rows[index])}' for name, rows in values))
        for index in range(infer.inputs[0].shape[0])
    ]
    return members(rng, f'"instances":[{",".join(rows)}]', '"signature_name":""')


def tfs_column(rng: random.Random, infer: InferRequest) -> str:
    inputs = members(rng, *(f'"{one.name}":{nested(rng, one.data.tolist())}' for one in infer.inputs))
    return members(rng, f'"inputs":{inputs}')


def v2_json(rng: random.Random, infer: InferRequest) -> str:
    tensors = [
        members(
            rng,
            f'"name":"{one.name}"',
            f'"datatype":"{one.dtype}"',
            f'"shape":{list(one.shape)}',
            f'"data":{nested(rng, (one.data if rng.random() < 0.5 else one.data.reshape(-1)).tolist())}',
        )
        for one in rng.sample(infer.inputs, len(infer.inputs))
    ]
    about = rng.choice((['"id":"q"'], ['"parameters":{"priority":1}'], []))
    return members(rng, f'"inputs":[{",".join(tensors)}]', *about)


def v2_binary(infer: InferRequest) -> tuple[bytes, int]:
    """The body, raw tensors behind the JSON, and how long the JSON is."""
    raw = [one.data.astype(NUMPY[one.dtype].newbyteorder("<")).tobytes() for one in infer.inputs]
    tensors = [
        f'{{"name":"{one.name}","datatype":"{one.dtype}","shape":{list(one.shape)},'
        f'"parameters":{{"binary_data_size":{len(data)}}}}}'
        for one, data in zip(infer.inputs, raw, strict=True)
    ]
    head = f'{{"inputs":[{",".join(tensors)}]}}'.encode()
    return head + b"".join(raw), len(head)


def careless(rng: random.Random, question: Question) -> Iterator[InferRequest]:
    """The question in JSON of two dialects, as nobody would write it and somebody will."""
    infer, signature = question
    for _ in range(CARELESS):
        form = rng.choice((tfs_row, tfs_column, v2_json))
        dialect: Dialect = KSERVE_V2 if form is v2_json else TENSORFLOW_SERVING
        target = Target(dialect, Operation.INFER, "m")
        yield dialect.read_request(target, [], form(rng, infer).encode(), signature)


@pytest.fixture(scope="module")
def corpus() -> list[Question]:
    return questions()


def test_no_two_questions_have_one_key(corpus: list[Question]) -> None:
    assert len({key(infer) for infer, _ in corpus}) == QUESTIONS


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_question_has_the_same_key_in_every_dialect_that_can_say_it(
    corpus: list[Question], dialect: Dialect
) -> None:
    count = 0
    for question in corpus:
        read = said(dialect, question)
        if read is not None:
            count += 1
            assert key(read) == key(question[0]), question[0].inputs
    assert count >= CANT_SAY_ALL.get(dialect.name, QUESTIONS)


def test_a_question_has_the_same_key_in_binary(corpus: list[Question]) -> None:
    target = Target(KSERVE_V2, Operation.INFER, "m")
    for infer, signature in corpus:
        body, length = v2_binary(infer)
        fields = [(b"inference-header-content-length", b"%d" % length)]
        assert key(KSERVE_V2.read_request(target, fields, body, signature)) == key(infer), infer.inputs


def test_a_question_has_the_same_key_however_its_json_is_written(corpus: list[Question]) -> None:
    rng = random.Random(7)
    styles: Counter[str] = Counter()
    for question in corpus:
        for read in careless(rng, question):
            styles[read.style] += 1
            assert key(read) == key(question[0]), question[0].inputs
    assert styles.total() == CARELESS * QUESTIONS
    assert len(styles) == 3
