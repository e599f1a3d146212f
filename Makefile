# One recipe file for laptop and CI. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
SEEDS ?= 500
MUTANT ?=
TIME ?= 60

.PHONY: help demo test check nightly build fmt lint layers deny wasm unit sim interop kill bench-micro bench-sip fuzz charts e2e e2e-scale cluster cluster-down kind install clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: ## a tool of a real MCP server answers over SIP; then the edge is killed and another one answers, with the ladder
	@scripts/demo.sh

test: ## everything that a change must pass; ends with "N passed, N failed, N skipped"
	@scripts/test.sh

check: ## what to run every few minutes: fmt, clippy, unit tests (under a minute when warm)
	@scripts/test.sh check

nightly: ## the long forms: more seeds, longer fuzzing, the whole interop matrix
	@scripts/test.sh nightly

build: ## the programs, for development
	@cargo build --locked -p edge -p cli -p echo-agent

fmt: ## formatting, checked
	@cargo fmt --all --check

lint: ## clippy, warnings denied
	@cargo clippy --locked --workspace --all-targets -- -D warnings

layers: ## the arrows of the house and the law of the pure zone
	@scripts/layers.sh

deny: ## bans, licences, sources
	@scripts/deny.sh

wasm: ## the pure crates build without an operating system
	@cargo check --locked --target wasm32-unknown-unknown -p sip-proto -p mcp-sip -p session-store -p edge-core

unit: ## unit and integration tests without foreign peers
	@cargo test --locked --workspace --exclude interop

sim: ## deterministic simulation: SEEDS=n, SEED=n (one), MUTANT=name (a planted fault must be found)
	@scripts/sim.sh SEEDS=$(SEEDS) SEED=$(SEED) MUTANT=$(MUTANT)

interop: ## real peers: SIPp, baresip, tshark, server-everything, PyPI mcp
	@scripts/interop.sh

kill: ## three edges, a real store, real clients: what each fault loses; RUNS=n, LONG_RUNS=n, KILL="--faults edge --class Replica"
	@scripts/kill.sh --runs $(or $(RUNS),1) --long-runs $(or $(LONG_RUNS),$(RUNS),1) $(KILL)

bench-micro: ## parse, write, tokens: nanoseconds and allocations
	@cargo bench --locked -p sip-proto -p edge-core --bench micro

bench-sip: ## CPU per call, registration and exchange, in pairs with Kamailio (release build; WHAT=call, RUNS=n)
	@scripts/bench.sh $(or $(WHAT),all) --runs $(or $(RUNS),5)

fuzz: ## cargo-fuzz on every target for TIME seconds each
	@scripts/fuzz.sh $(TIME)

charts: ## the Helm charts: lint, rendered with many values, what they refuse (the first time helm is built, a minute or two)
	@scripts/charts.sh

e2e: ## the tests on a real Kubernetes: of KUBECONFIG, else one that is started here (Linux, root, Go); E2E="name of a test"
	@scripts/e2e.sh $(E2E)

e2e-scale: ## from apply to routable with many agents: AGENTS=n (10000); memory of operator and edges
	@scripts/e2e.sh --scale --agents $(or $(AGENTS),10000) apply_to_routable_at_scale

cluster: ## a real Kubernetes on this machine (Linux, root): NODES=n, CLUSTER="--prefix other"; prints where its kubeconfig is
	@scripts/cluster.sh up --nodes $(or $(NODES),1) $(CLUSTER)

cluster-down: ## every trace of it is removed
	@scripts/cluster.sh down $(CLUSTER)

kind: ## a kind cluster, where Docker is
	@scripts/cluster.sh kind

install: ## what the tests need from Debian, npm and PyPI, idempotent
	@scripts/install.sh all

clean: ## build output
	@cargo clean
