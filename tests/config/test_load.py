from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.load import load
from gateway.config.schema import Schema
from gateway.config.units import Address
from tests.config import examples
from tests.config.sample_kinds import KINDS, Breaker, Slow, Throttle


def errors(folder, **files):
    loaded = load(examples.write(folder, **files), KINDS, examples.ENV)
    assert (loaded.schema is None) == bool(loaded.errors)
    return loaded.report().replace(f"{folder}/", "").splitlines()


@pytest.fixture
def loaded(tmp_path):
    return load(examples.write_all(tmp_path), KINDS, examples.ENV)


def test_the_examples_of_the_documentation_load_verbatim(loaded):
    assert loaded.report() == ""
    schema = loaded.schema
    assert schema.listen.http.address == Address("127.0.0.1", 8080)
    assert schema.listen.admin.token.reveal() == "not-for-eyes"
    assert schema.endpoints["digits"].versions == {"1": "digits-v1", "2": "digits-v2"}
    assert schema.pools["digits-lite"].instances[0].address == Address("127.0.0.1", 9103)
    assert schema.principals["alice"].keys[0].digest == b"\xab" * 32
    assert schema.issuers["corp"].claims.tenant == "org"
    assert schema.overrides["digits"].until == 1795370400.0


def test_verbs_remember_where_they_stand(loaded):
    throttles = loaded.schema.endpoints["digits"].verbs["throttle"]
    assert [placed.value for placed in throttles][1] == Throttle.from_text("5/s per principal burst 5")
    assert throttles[1].origin.path == "endpoints.digits.throttle[1]"
    assert (throttles[1].origin.line, throttles[1].origin.column) == (11, 22)
    assert loaded.schema.policies["free-tier"].verbs["throttle"][0].origin.policy == "free-tier"
    breaker = loaded.schema.endpoints["digits"].verbs["breaker"][0].value
    assert breaker == Breaker(slow=Slow(over=0.5))


def test_an_empty_folder_runs_on_defaults(tmp_path):
    assert load(tmp_path, KINDS).schema == Schema()
    assert load(examples.write(tmp_path, a="", b="# nothing\n"), KINDS).schema == Schema()


def test_a_folder_that_is_not_there_is_a_problem_and_no_exception(tmp_path):
    found = load(tmp_path / "nowhere", KINDS)
    assert found.schema is None
    assert "expected a folder of policies: No such file" in found.report()


def test_equality_and_so_state_survive_a_comment_and_an_unrelated_file(tmp_path, loaded):
    (tmp_path / "digits.yaml").write_text("# a word\n\n" + examples.DIGITS)
    again = load(tmp_path, KINDS, examples.ENV)
    assert again.schema == loaded.schema
    assert again.digest != loaded.digest
    first = again.schema.endpoints["digits"].verbs["throttle"][0].origin
    assert first != loaded.schema.endpoints["digits"].verbs["throttle"][0].origin


def test_a_changed_number_is_another_schema(tmp_path, loaded):
    (tmp_path / "digits.yaml").write_text(examples.DIGITS.replace("50/s", "51/s"))
    assert load(tmp_path, KINDS, examples.ENV).schema != loaded.schema


def test_the_digest_knows_contents_and_names(tmp_path):
    first = load(examples.write(tmp_path, a="x-a: 1"), KINDS).digest
    assert load(tmp_path, KINDS).digest == first
    (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
    assert load(tmp_path, KINDS).digest != first


def test_an_edit_is_checked_before_it_is_written(tmp_path, loaded):
    broken = load(tmp_path, KINDS, examples.ENV, edits={"overrides.yaml": "nope: {send: 1}"})
    assert "expected an endpoint" in broken.report()
    assert load(tmp_path, KINDS, examples.ENV).schema == loaded.schema


def test_secrets_show_in_no_repr_and_travel_to_a_worker(loaded):
    assert "not-for-eyes" not in repr(loaded.schema)
    assert pickle.loads(pickle.dumps(loaded.schema)) == loaded.schema


def test_endpoints_may_be_spread_over_files_but_a_name_stands_once(tmp_path):
    one = "pools: {p: {instances: 1.2.3.4:80}}\nendpoints: {a: {model: a, send: p}}"
    two = "endpoints: {b: {model: b, send: p}}"
    assert errors(tmp_path, one=one, two=two) == []
    assert errors(tmp_path, one=one, two=two, three="endpoints: {a: {model: c, send: p}}") == [
        "three.yaml:1:13: endpoints.a: expected once in all files, found again; the first is one.yaml:2:13"
    ]


def test_a_section_in_two_files_names_both_positions(tmp_path):
    found = errors(tmp_path, a="log: {level: info}", b="log: {level: debug}")
    assert found == ["b.yaml:1:1: log: expected once in all files, found again; the first is a.yaml:1:1"]


def test_all_problems_of_all_files_come_in_one_run(tmp_path):
    found = errors(
        tmp_path,
        a="listen: {http: 8080}\nlog: {level: loud}\nendpints: {}\n",
        b="endpoints:\n  d: {model: d, versions: {1: nope}, timeout: 5, throttle: [5/s, x]}\n",
        c="a: [\n",
        d="x: 1\nx: 2\n---\ny: 1",
    )
    places = [line.split(": ")[0] for line in found]
    assert places == [
        "a.yaml:1:16",
        "a.yaml:2:14",
        "a.yaml:3:1",
        "b.yaml:2:31",
        "b.yaml:2:47",
        "b.yaml:2:66",
        "c.yaml:2:1",
        "d.yaml:2:1",
        "d.yaml:3:1",
    ]
    assert "did you mean 'endpoints'?" in found[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("endpoints: {d: {model: d, authenticate: jwt}}", "expected authenticate on: policy or override"),
        (
            "pools: {p: {instances: 1.2.3.4:80, throttle: 5/s}}",
            "expected throttle on: endpoint, policy, plan",
        ),
        ("plans: {p: {breaker: off}}", "expected breaker on: pool, endpoint or policy; found it on: plan"),
        ("policies: {p: {applies_to: '*'}}", "expected at least one of authenticate, allow"),
        ("policies: {p: {throttle: 5/s}}", "expected `applies_to`"),
        ("pools: {p: {}}", "found none"),
        ("pools: {p: {find: a, instances: 1.2.3.4:80}}", "found find and instances"),
        ("endpoints: {e: {send: p}}", "expected either `model: NAME` or `match"),
        ("endpoints: [a]", "endpoints: expected a mapping of names, found a list"),
        ("endpoints: {a: b}", "endpoints.a: expected a mapping, found 'b'"),
        ("listen: {admin: {token: hunter2}}", "found a secret in clear text"),
        ("principals: {a: {keys: hunter2}}", "expected a hashed key"),
        ("stores: {cache: 'redis://u:hunter2@h/0'}", "found a password in clear text"),
        ("stores: {cache: mem}", "expected memory, or a URL"),
        ("registry: {local: {}, etcd: {}}", "expected one registry, found several"),
        ("registry: zookeper", "expected local, static"),
        ("registry: {etcd: {user: a}}", "user and password go together"),
        ("listen: {tls: {}}", "expected http, grpc or admin, found 'tls'"),
        (
            "issuers: {i: {issuer: a, audiences: b, jwks: 'http://id.example/k'}}",
            "expected https:// or a file for jwks, found http://",
        ),
        ("log: {sample: 20}", "did you mean '20%'"),
        (
            "policies: {p: {applies_to: '*', throttle: 5/s, from: 2027-01-02, until: 2027-01-01}}",
            "until after from",
        ),
    ],
)
def test_what_the_language_does_not_know_is_refused(tmp_path, text, message):
    found = "\n".join(errors(tmp_path, a=text))
    assert message in found
    assert "hunter2" not in found


def test_an_override_must_end(tmp_path):
    loaded = load(
        examples.write(tmp_path, digits=examples.DIGITS, overrides="digits: {throttle: 1/s}"), KINDS, {}
    )
    assert "overrides.digits: expected `until`, when it ends by itself" in loaded.report()


def test_anchors_have_a_place_of_their_own(tmp_path):
    text = "x-pool: &p {speaks: http}\npools: {a: {<<: *p, find: a}, b: {<<: *p, find: b}}"
    loaded = load(examples.write(tmp_path, a=text), KINDS)
    assert loaded.report() == ""
    assert loaded.schema.pools["b"].speaks == "http"


def test_hidden_files_and_other_suffixes_are_not_read(tmp_path):
    (tmp_path / ".draft.yaml").write_text("nonsense: 1")
    (tmp_path / "notes.txt").write_text("nonsense: 1")
    assert load(tmp_path, KINDS).sources == ()


@pytest.mark.parametrize(("data", "message"), [(b"a: \xff", "found the byte 0xff"), (b"\xef\xbb\xbf", "")])
def test_files_are_utf_8_with_or_without_a_mark(tmp_path, data, message):
    (tmp_path / "a.yaml").write_bytes(data)
    report = load(tmp_path, KINDS).report()
    assert message in report
    assert bool(report) == bool(message)


def test_a_rotated_secret_is_another_schema_under_the_same_digest(tmp_path):
    (tmp_path / "token").write_text("old\n")
    text = "listen: {admin: {address: 127.0.0.1:1, token: '${file:token}'}}"
    before = load(examples.write(tmp_path, a=text), KINDS)
    (tmp_path / "token").write_text("new\n")
    after = load(tmp_path, KINDS)
    assert before.references == (tmp_path / "token",)
    assert before.digest == after.digest
    assert before.schema != after.schema


WORDS = ["null", "~", "", "[]", "{}", "5", "-1", "1e999", "off", "*", "${env:X}", "a: b", "- x", "&a", "*a"]
FILES = {
    "gateway.yaml": examples.GATEWAY,
    "digits.yaml": examples.DIGITS,
    "house-rules.yaml": examples.HOUSE_RULES,
}


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(sorted(FILES)),
    at=st.floats(0, 1, exclude_max=True),
    cut=st.sampled_from([0, 1, 3, 8, 20]),
    word=st.sampled_from([*WORDS, "\t", "\n", "{", "]", '"', "🙂", "<<", "? "]),
)
def test_a_damaged_file_is_loaded_or_reported_and_nothing_is_raised(tmp_path_factory, name, at, cut, word):
    folder = examples.write_all(tmp_path_factory.mktemp("damaged"))
    text = FILES[name]
    start = int(at * len(text))
    damaged = text[:start] + word + text[start + cut :]
    loaded = load(folder, KINDS, examples.ENV, edits={name: damaged})
    assert (loaded.schema is None) == bool(loaded.errors)
    assert all(problem.mark.file != "?" for problem in loaded.errors)
    assert "not-for-eyes" not in loaded.report()


def test_a_version_that_names_no_pool_is_one_problem_whatever_sends_there(tmp_path):
    text = "endpoints: {d: {model: d, versions: {1: gone}, send: 1, breaker: off}}"
    assert len(errors(tmp_path, a=text)) == 1
