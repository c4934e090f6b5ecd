# One command to see the system work, one to test it. `make help` lists all.
#
#   make demo                 on a machine with Debian, python3 and make: nothing else is needed
#   make test INFRA=docker    the same tests against containers, where Docker runs
#   PYTHON=python3.13 make demo

# Debian's own where it will do: it is built to be fast, which one built on this machine often is not.
PYTHON ?= $(shell /usr/bin/python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && echo /usr/bin/python3 || echo python3)
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin/python
COMPOSE := $(RUN) -m compose
INFRA ?= local
# Most tests wait for something: two files at a time take little longer than one.
WORKERS ?= 2
NAME ?= order
HEARS ?=
# Jaeger, Prometheus and Grafana, and everything that happens traced.
OBSERVED := COMPOSE_PROFILES=observability OTEL_EXPORTER_OTLP_ENDPOINT=http://jaeger:4318 \
	JAEGER_URL=http://127.0.0.1:$(or $(JAEGER_PORT),18686)
DRILL_OPTIONS = $(if $(RIG),--rig $(RIG)) $(if $(SEED),--seed $(SEED)) $(if $(RATE),--rate $(RATE)) $(if $(LONG),--long)
BENCH_OPTIONS = $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(IN_FLIGHT),--in-flight $(IN_FLIGHT))
A ?= HEAD~1
B ?= HEAD
LINTED := compose docs events $(wildcard *_svc) saga_tracker tests

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: FORCE help demo up all-in-one status env token down logs check map bench bench-all bench-compare bench-tracing drills drill new-service pictures test jaeger stripe-mock lint clean
.PHONY: compose-up compose-down compose-demo compose-check

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## run the system, break it, show every saga, check the invariants, stop (ONLY=poison: one)
	@$(COMPOSE) demo $(if $(ONLY),--only $(ONLY))

up: $(READY) ## start the system and leave it running
	@$(COMPOSE) up

all-in-one: $(READY) ## the same with all services and the tracker in one process, for development and small shops
	@$(COMPOSE) all-in-one

status: $(READY) ## show what runs and where (URLS=1: with passwords)
	@$(COMPOSE) status $(if $(URLS),--urls)

env: $(READY) ## print the addresses of the running system for a shell: eval "$(make env)"
	@$(COMPOSE) env

token: $(READY) ## make a token for NAME with a ROLE (client, viewer, operator, approver, admin), print it this once
	@$(COMPOSE) token $(NAME) $(or $(ROLE),viewer)

down: $(READY) ## stop the system, keep its data
	@$(COMPOSE) down

logs: $(READY) ## show the log of NAME (order, tracker, rabbitmq, ...)
	@$(COMPOSE) logs $(NAME)

check: $(READY) ## check the invariants of the running system
	@$(COMPOSE) check

drills: $(READY) ## break a system made for it in every way, under load, and judge it (RIG=compose LONG=1)
	@$(COMPOSE) drills $(DRILL_OPTIONS)

drill: $(READY) ## run one drill, by its NAME (make drill NAME=poison; SEED=7: as then)
	@$(COMPOSE) drills --only $(NAME) $(DRILL_OPTIONS)

new-service: $(READY) ## write the folder of a new service (NAME=loyalty HEARS=order.confirmed)
	@$(COMPOSE) new-service $(NAME) "$(HEARS)"

map: $(READY) ## draw the map of facts anew: docs/choreography.md and docs/system.svg
	@$(COMPOSE) map

pictures: $(READY) ## take the pictures of the board that the documents show, with Chromium
	@PICTURES=docs $(RUN) -m pytest -q tests/board/test_look.py -k "pictured"

compose-up: ## build and start the same system in containers, with Docker (CLUSTER=1, OBSERVE=1)
	@$(if $(OBSERVE),$(OBSERVED)) $(PYTHON) -m compose.containers up $(if $(CLUSTER),--cluster)

compose-down: ## stop and remove the containers, keep their data
	@$(PYTHON) -m compose.containers down $(if $(CLUSTER),--cluster)

compose-demo: $(READY) ## the demo against the containers, which it starts if they do not run (ONLY=poison: one)
	@$(RUN) -m compose.containers demo $(if $(CLUSTER),--cluster) $(if $(ONLY),--only $(ONLY))

compose-check: $(READY) ## check the invariants of the running containers
	@$(RUN) -m compose.containers check $(if $(CLUSTER),--cluster)

bench: $(READY) ## measure the main figures, in five minutes or so (ONLY=peak,sustained ROUNDS=1 IN_FLIGHT=300)
	@$(RUN) -m tests.bench $(BENCH_OPTIONS)

bench-all: $(READY) ## measure systems made for it, under load of every kind
	@$(RUN) -m tests.bench --all $(BENCH_OPTIONS)

bench-compare: $(READY) ## measure commit A against commit B, in turns (A=HEAD~1 B=HEAD ROUNDS=3 IN_FLIGHT=300)
	@$(RUN) -m tests.bench.compare $(A) $(B) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(IN_FLIGHT),--in-flight $(IN_FLIGHT))

bench-tracing: $(READY) ## measure what tracing costs, with a real Jaeger (make jaeger)
	@$(RUN) -m tests.bench.tracing

test: $(READY) ## run every test, against servers of its own (TESTS=tests/decide: some of them)
	@if [ "$(INFRA)" != docker ]; then $(COMPOSE) prepare; fi
# Tests with the system in containers come last, and by themselves: they load the machine, others watch clocks.
# Pytest exits with 5 where it finds none.
	@export INFRA=$(INFRA); \
	$(RUN) -m pytest --numprocesses $(WORKERS) --dist loadfile -m "not alone" $(TESTS); first=$$?; \
	[ $$first -eq 0 ] || [ $$first -eq 5 ] || exit $$first; \
	$(RUN) -m pytest -m alone $(TESTS); second=$$?; \
	[ $$second -ne 5 ] || exit $$first; exit $$second

jaeger: $(READY) ## build Jaeger for the tests of traces, where Go is installed (some ten minutes, once)
	@$(RUN) -m tests.jaeger

stripe-mock: ## build stripe-mock for the tests of requests to Stripe, where Go is installed
	@go install github.com/stripe/stripe-mock@v0.203.0

lint: $(READY) ## check style, types and who imports whom
	@$(RUN) -m ruff check $(LINTED)
	@$(RUN) -m ruff format --check $(LINTED)
	@$(RUN) -m mypy --strict $(LINTED)
	@$(VENV)/bin/lint-imports

clean: ## stop the system, delete its data and the environment
	@if [ -x $(RUN) ]; then $(COMPOSE) down --delete-data; fi
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Also when the Python that the environment was made from is gone.
$(READY): requirements.lock pyproject.toml $(wildcard *_svc/pyproject.toml) compose/local/bootstrap.py $(shell test -x $(RUN) || echo FORCE)
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed: sudo apt-get install python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed, $(PYTHON) is `$(PYTHON) --version`" >&2; exit 1; }
	@$(PYTHON) -m compose.local.bootstrap

FORCE:
