# `make` alone lists what there is. Everything is installed into .venv; nothing else of the machine is touched,
# but for Debian's packages of the servers that tests talk to (make services), and only when run as root.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt

# The compiled gateway stands beside the sources, never among them: a compiled module hides the file beside it.
NATIVE := $(CURDIR)/.native
COMPILED := PYTHONSAFEPATH=1 PYTHONPATH=$(NATIVE)/lib:$(CURDIR)
TWIN := $(addprefix tests/,http governance pipeline playbooks filters stores/test_memory.py telemetry server upstream \
	conformance runtime/test_form.py $(addprefix integration/test_,attempts.py compressed.py grpc.py http2.py \
	proxies_in_front.py streaming.py websocket.py))
SOURCES := $(shell find gateway backends -name '*.py' -o -name '*.pyx' -o -name '*.pxd')

.DEFAULT_GOAL := help
.PHONY: help demo test check services native peers bench bench-serving govern load fuzz chaos soak asan generated clean test-peers

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

demo: $(VENV)/.demo  ## the gateway with real models behind it on 127.0.0.1:8080 and :9080; Ctrl-C stops everything
	@exec $(BIN)/headgate demo $(DEMO)

test: $(VENV)/.test services  ## everything: style, types, floors, all tests, with real etcd, Redis, NGINX, Triton
	@$(BIN)/python -m tests.services.peers.install --into $(VENV) triton tfs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -rsR
	@$(MAKE) --no-print-directory twin

check: $(VENV)/.test  ## the same without slow tests: the loop of a working day
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -rs -m "not slow"

PEER_TESTS := tests/integration/test_model_servers.py tests/integration/test_failing_model_servers.py
test-peers: $(VENV)/.test  ## real Triton, MLServer, KServe, TorchServe, MMS, Paddle and clients (downloads 3 GB)
	@$(BIN)/python -m tests.services.peers.install --into .venv
	@rm -f .venv/peers.jsonl
	@HEADGATE_PEERS=$(CURDIR)/.venv HEADGATE_PEERS_TABLE=$(CURDIR)/.venv/peers.jsonl $(BIN)/python -m pytest -rs $(PEER_TESTS)
	@unshare -n sh -c 'ip link set lo up && exec env HEADGATE_PEERS_NAMESPACE=1 HEADGATE_PEERS=$(CURDIR)/.venv \
		HEADGATE_PEERS_TABLE=$(CURDIR)/.venv/peers.jsonl $(BIN)/python -m pytest -rs -k paddle $(PEER_TESTS)' \
		|| echo "PaddleServing binds every address and wants a network namespace of its own (unshare -n, as root)"
	@$(BIN)/python -m tests.services.peers.table .venv/peers.jsonl docs/peers.md

twin: $(NATIVE)/.built  ## the tests of everything that is compiled, on the compiled form
	@echo "the compiled form"
	@$(COMPILED) HEADGATE_FORM=compiled $(BIN)/python -m pytest -rsR -p no:cacheprovider --import-mode=append $(TWIN)

services:  ## install the servers that tests talk to (Debian, as root); without them those tests are skipped
	@sh tests/services/install.sh

native: $(NATIVE)/.built  ## the hot modules compiled, in .native/lib (a C compiler, two minutes)
	@echo "compiled gateway: $(COMPILED) $(BIN)/python -m gateway"

peers:  ## install the gateways that the bench compares with (Debian, as root; Envoy's wheel into .venv/peers)
	@PYTHON=$(PYTHON) sh loadtests/peers/install.sh $(PEERS)

bench: $(VENV)/.test peers  ## CPU, latency, memory beside other gateways, in one interleaved run: 12 quiet minutes
	@$(MAKE) --no-print-directory native || echo "nothing could be compiled: the pure gateway alone is measured"
	@$(BIN)/python -m loadtests.bench $(BENCH)

bench-serving: $(VENV)/.test  ## the reference backend beside raw ONNX Runtime; BENCH_SERVING="--peers --record"
	@$(BIN)/python -m loadtests.serving $(BENCH_SERVING)

govern: $(VENV)/.test  ## overload over loopback: stub backends get 2, 5 and 10 times what they can do, or fail; four minutes
	@$(BIN)/python -m loadtests.govern $(GOVERN)

load: $(VENV)/.test  ## locust drives the demo past its limits; asserts, a report and a picture in loadtests/out/
	@$(BIN)/python -m loadtests.scenarios $(LOAD)

fuzz: $(VENV)/.test  ## fuzz every reader of untrusted bytes: FUZZ="--seconds 600"
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) --quiet --only-binary :all: atheris || echo "no atheris for this Python: a small loop of our own instead"
	@$(BIN)/python -m tests.conformance.fuzz $(FUZZ)

chaos: $(VENV)/.test  ## thousands of seeded scenarios of misbehaving clients and instances: CHAOS="first:number"
	@HEADGATE_CHAOS=$(or $(CHAOS),0:6000) HEADGATE_CHAOS_SECONDS=10 $(BIN)/python -m pytest -rs -s tests/chaos

soak: $(VENV)/.test  ## an hour at half load; fails where memory, tasks or descriptors grow: SOAK="--minutes 60"
	@$(BIN)/python -m loadtests.soak $(SOAK)

asan: $(VENV)/.test  ## the compiled modules with AddressSanitizer, on everything of tests/conformance that speaks bytes
	@sh tests/conformance/asan.sh $(BIN)/python

generated: $(VENV)/.test  ## write policies/schema.json and docs/policies-reference.md anew
	@$(BIN)/python -m gateway.runtime.generated

clean:  ## remove the environment and what tools left behind
	rm -rf $(VENV) $(NATIVE) .demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache loadtests/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headgate needs Python 3.11 or newer; say which: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV) || { echo "on Debian: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Headgate and ONNX Runtime into $(VENV)"
	@$(PIP) --quiet -e '.[serve]'
	@touch $@

$(NATIVE)/.built: pyproject.toml setup.py $(SOURCES) | $(VENV)/.test
	@echo "compiling the hot modules into $(NATIVE)"
	@rm -rf $(NATIVE) && mkdir -p $(NATIVE)/src
	@cp -R gateway backends setup.py pyproject.toml README.md LICENSE MANIFEST.in $(NATIVE)/src/
	@HEADGATE_NATIVE=1 $(BIN)/python -m pip wheel --disable-pip-version-check --quiet --no-deps --wheel-dir $(NATIVE) $(NATIVE)/src
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --target $(NATIVE)/lib $(NATIVE)/headgate-*.whl
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Headgate and everything its tests need into $(VENV)"
	@$(PIP) --quiet -e '.[test]'
	@touch $(VENV)/.demo $@
