# Copyright The Railyard Authors
# SPDX-License-Identifier: Apache-2.0

# On a machine with only Go, apt and root, "make test" and "make demo" set up by themselves whatever they need.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

BIN := $(CURDIR)/bin
# Asked once, and only by the targets that need it.
TOOLS = $(eval TOOLS := $(shell test/tools/tools.sh dir))$(TOOLS)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# -buildvcs=false: VERSION says it, and a clone that belongs to another user must build too.
export GOFLAGS := $(filter-out -buildvcs=%,$(GOFLAGS)) -buildvcs=false

# What one may set: make test PKG=./ipam/... TESTFLAGS='-run Lease -v'
PKG ?= ./...
TESTFLAGS ?=
TEST_TIMEOUT ?= 15m
E2E_TIMEOUT ?= 30m
FUZZTIME ?= 20s
BENCHFLAGS ?=
# make bench-scale SCALEFLAGS="-nodes 10,100 -steady 1m"; -h lists all.
SCALEFLAGS ?=
DEMOFLAGS ?=
KEEP ?=
# make sim SEEDS=10000 FIRST=0 is a night's work; make sim SEED=7 ACTIONS=3,9 repeats what failed.
SEEDS ?= 500
FIRST ?= 0
SEED ?=
ACTIONS ?=
CALM ?=
NODES ?= 2

with_tools = RAILYARD_TOOLS="$(TOOLS)" RAILYARD_BIN="$(BIN)" PATH="$(TOOLS):$$PATH"
need = test/tools/tools.sh build
go_build = go build -tags grpcnotrace,netgo,osusergo -trimpath -ldflags '-s -w -X github.com/railyard-net/railyard/cmd/internal/build.version=$(VERSION)' -o $(BIN)/
# Not by go run: the machines of a cluster start the command again, long after.
build_e2e = mkdir -p build/e2e && CGO_ENABLED=0 go build -trimpath -o build/e2e/ ./test/e2e/cluster ./test/cluster/pod
as_root = [ "$$(id -u)" = 0 ] || { echo "make $@ needs root: it makes network namespaces" >&2; exit 1; }

##@ Everyday

.PHONY: help
help: ## Print this list
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@printf '\nVariables: SEEDS, FIRST, SEED, ACTIONS, CALM, PKG, TESTFLAGS, TEST_TIMEOUT, FUZZTIME, BENCHFLAGS, SCALEFLAGS, DEMOFLAGS, KEEP=1, NODES, RAILYARD_TOOLS=folder\n'

.PHONY: build
build: ## Build our programs into bin/, static; with a C compiler, the device plugin so that it can load NVIDIA's library
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(go_build) ./cmd/...
	@if command -v gcc >/dev/null; then $(MAKE) build-device-plugin; else echo "no gcc: bin/railyard-device-plugin is static, and sees no GPUs" >&2; fi

.PHONY: build-device-plugin
build-device-plugin: ## Build only the device plugin, with a C compiler
	@mkdir -p $(BIN)
	CGO_ENABLED=1 CGO_CFLAGS="-O2 -Wno-deprecated-declarations" $(go_build) ./cmd/railyard-device-plugin

.PHONY: image
image: build ## Write the image of our programs to build/railyard.tar, without Docker
	@$(build_e2e)
	build/e2e/cluster image build/railyard.tar

.PHONY: test
test: deps build ## Set up what is missing, then run every test against real parts
	@$(as_root)
	@$(need) kube multus cni
	go vet $(PKG)
	@mkdir -p build/test
	$(with_tools) go test -json -count=1 -timeout=$(TEST_TIMEOUT) $(TESTFLAGS) $(PKG) | tee build/test/events.json | go run ./test/tools/tally $(filter -v,$(TESTFLAGS)) -closing build/test/closing.txt

.PHONY: test-vm
test-vm: ## Run tests in emulated machines with RDMA and SR-IOV; VM=7.3-shared picks one, VMSHELL=1 opens a shell in it
	go vet -tags vm ./test/vm/...
	@mkdir -p build/test
	@$(if $(filter-out 0,$(VMSHELL)),go run ./test/vm -shell -vm "$(VM)",go run ./test/vm -vm "$(VM)" $(TESTFLAGS) $(PKG) | tee build/test/events-vm.json | go run ./test/tools/tally $(filter -v,$(TESTFLAGS)) -closing build/test/closing-vm.txt)

.PHONY: sim
sim: ## Run SEEDS simulated clusters under faults; SEED=n repeats one, and shows what happened
	@mkdir -p build/sim
	go test -c -o build/sim/sim.test ./test/sim
	cd test/sim && ../../build/sim/sim.test -test.run='^TestSeeds$$' -test.timeout=0 -seeds=$(SEEDS) -first=$(FIRST) \
	  $(if $(SEED),-seed=$(SEED)) $(if $(ACTIONS),-actions=$(ACTIONS)) $(if $(filter-out 0,$(CALM)),-calm)

.PHONY: demo
demo: deps build ## Three nodes, the real Multus, pods that ping each other; KEEP=1 leaves it running
	@$(as_root)
	@$(need) kube multus cni
	$(with_tools) go run ./test/cluster/demo up $(if $(filter-out 0,$(KEEP)),--keep) $(DEMOFLAGS)

.PHONY: demo-down
demo-down: ## End what make demo KEEP=1 left running
	@$(as_root)
	$(with_tools) go run ./test/cluster/demo down $(DEMOFLAGS)

.PHONY: cluster
cluster: build ## Start a Kubernetes cluster of whole machines with Railyard on it; NODES=3 for three
	@$(as_root)
	@test/tools/deps.sh cluster
	@$(need) kube multus cni kubenode containerd multus-image
	@$(build_e2e)
	$(with_tools) build/e2e/cluster up --nodes=$(NODES)

.PHONY: cluster-down
cluster-down: ## End what make cluster started, and take every trace of it away
	@$(as_root)
	@$(build_e2e)
	$(with_tools) build/e2e/cluster down

.PHONY: e2e
e2e: ## Run the tests on a cluster: on the one that runs, or on one for them alone; TESTFLAGS='-run Smoke' for some
	go vet -tags e2e ./test/e2e
	@mkdir -p build/test
	@$(build_e2e)
	@ours=; trap '[ -z "$$ours" ] || $(MAKE) cluster-down' EXIT; \
	build/e2e/cluster running 2>/dev/null || { ours=1; $(MAKE) cluster NODES=$(NODES); }; \
	go test -tags e2e -json -count=1 -timeout=$(E2E_TIMEOUT) $(TESTFLAGS) ./test/e2e | tee build/test/events-e2e.json | go run ./test/tools/tally $(filter -v,$(TESTFLAGS)) -closing build/test/closing-e2e.txt

.PHONY: chart
chart: ## Check manifests/chart with helm, and that it gives what manifests/install gives
	@$(need) kube helm
	$(with_tools) helm lint --strict manifests/chart
	$(with_tools) go test -count=1 $(TESTFLAGS) -run Chart ./manifests

##@ Before a change goes in

.PHONY: lint
lint: ## Run golangci-lint
	@$(need) golangci-lint
	$(with_tools) golangci-lint run --allow-parallel-runners $(PKG)

.PHONY: generate
generate: ## Write the generated code and manifests anew
	@$(need) controller-gen
	$(with_tools) test/tools/generate.sh

.PHONY: verify
verify: ## Check that generated files, modules, format and structure are as they should; changes nothing
	@$(need) controller-gen
	$(with_tools) test/tools/verify.sh

.PHONY: test-race
test-race: deps build ## The tests under the race detector; needs a C compiler
	@$(as_root)
	@command -v gcc >/dev/null || { echo "make test-race needs gcc: apt-get install gcc libc6-dev" >&2; exit 1; }
	@$(need) kube multus cni
	$(with_tools) CGO_ENABLED=1 go test -race -count=1 -timeout=30m $(TESTFLAGS) $(PKG)

.PHONY: test-peers
test-peers: deps ## Run the peers' own test suites on our plugin, and list every case
	@$(as_root)
	@mkdir -p build/test && rm -f build/test/peers.txt
	@status=0; go test -count=1 -timeout=$(TEST_TIMEOUT) $(TESTFLAGS) ./test/peers -report $(CURDIR)/build/test/peers.txt >build/test/peers.log 2>&1 || status=$$?; \
	[ $$status = 0 ] || cat build/test/peers.log; \
	cat build/test/peers.txt || echo "0 passed, 1 failed: the suites did not run"; \
	exit $$status

.PHONY: conformance
conformance: ## Write docs/dev/conformance.md from what the last make test and make test-vm said
	go run ./test/conformance/table -o docs/dev/conformance.md build/test/events.json $(wildcard build/test/events-vm.json)

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME
	FUZZTIME=$(FUZZTIME) test/tools/fuzz.sh

.PHONY: bench
bench: deps build ## Measure against the neighbours and the floor; writes build/bench and docs/benchmarks.md
	@$(as_root)
	@$(need) kube multus cni
	$(with_tools) go run ./test/bench $(BENCHFLAGS)

.PHONY: bench-scale
bench-scale: build ## Run the agents of 10, 100 and 1,000 nodes on a real API server; writes docs/benchmarks-scale.md
	@$(need) kube
	$(with_tools) go run ./test/bench/scale $(SCALEFLAGS)

.PHONY: bench-pairing
bench-pairing: ## Simulate placement with pairs and without; writes docs/benchmarks-pairing.md
	go run ./test/bench/pairing

##@ Set-up

.PHONY: deps
deps: ## Install the few Debian packages that are missing
	@test/tools/deps.sh

.PHONY: tools
tools: ## Build the tools that are missing: kube-apiserver with etcd, Multus, reference plugins, generators, lint, helm
	@$(need)

.PHONY: tools-dir
tools-dir: ## Print the folder that holds the tools, and nothing else
	@echo "$(TOOLS)"

.PHONY: clean
clean: ## Remove bin/ and build/; the tools stay
	rm -rf bin build
