# Everything that needs more than one cargo command. `make` alone lists it.

SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := help

# Clusters are heavy: on two cores more than two at once only slow each other down into their deadlines.
TEST_THREADS ?= 2
# For `make install`.
PREFIX ?= /usr/local
UNIT_DIR ?= /etc/systemd/system

.PHONY: help
help: ## Lists what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## Installs what the tests and the demo need (Debian 12; root or sudo)
	@scripts/install-deps test

.PHONY: build
build: ## Builds the agent and pgctl with optimisations
	cargo build --release --locked --package agent --package ctl --package wal-helper --bins

.PHONY: demo
demo: deps build ## Shows a failover and a switchover under load; KEEP=1 leaves the cluster running
	@servers=$$(scripts/test-servers) && cargo build --release --locked --package lab --bin demo && \
	  PGCTL_TEST_PG_BINDIRS=$$servers target/release/demo $(if $(filter 1 yes true,$(KEEP)),--keep)

.PHONY: lint
lint: ## Checks format and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: test
test: deps lint ## Runs every test, on PostgreSQL 15 and 18
	@# A cold build leaves gigabytes to be written, and a server that shares the disk with them does not start for seconds.
	@servers=$$(scripts/test-servers) && moto=$$(scripts/moto-venv target/moto) && echo "servers: $$servers" && \
	  export PGCTL_TEST_PG_BINDIRS=$$servers PGCTL_TEST_MOTO=$$moto && \
	  cargo build --workspace --bins --locked && cargo test --workspace --locked --no-run && sync && \
	  cargo test --workspace --locked --no-fail-fast -- --test-threads=$(TEST_THREADS)

.PHONY: test-stores
test-stores: ## Tries every kind of store against a server that speaks its protocol (S3: moto, Azure: Azurite; needs npm)
	@moto=$$(scripts/moto-venv target/moto) && azurite=$$(scripts/azurite target/azurite) && \
	  PGCTL_TEST_MOTO=$$moto PGCTL_TEST_AZURITE=$$azurite cargo test --locked --package repository --test stores --test misbehaviour

.PHONY: brutal
brutal: deps ## Kills anything at any moment of push, backup, expiry, restore; ROUNDS=50 FAILOVERS=20 SEED=1
	@servers=$$(scripts/test-servers) && cargo build --locked --package agent --package ctl --package wal-helper --bins && \
	  PGCTL_TEST_PG_BINDIRS=$$servers PGCTL_TEST_ROUNDS=$(or $(ROUNDS),50) PGCTL_TEST_FAILOVERS=$(or $(FAILOVERS),20) \
	    PGCTL_TEST_SEED=$(or $(SEED),1) cargo test --locked --package lab --test cluster -- --test-threads=1 --nocapture \
	    brutal::whoever brutal::after_each

.PHONY: jepsen
jepsen: deps ## Breaks a cluster and checks what clients saw; TIME=600 NODES=3|5|2w SEED NEMESES WORKLOAD PROFILE MODE
	@servers=$$(scripts/test-servers) && \
	  cargo build --release --locked --package agent --package ctl --package jepsen --bins && \
	  PGCTL_TEST_PG_BINDIRS=$$servers target/release/jepsen --time $(or $(TIME),600) --nodes $(or $(NODES),3) \
	    $(if $(SEED),--seed $(SEED)) --nemeses $(or $(NEMESES),all) --workloads $(or $(WORKLOAD),all) \
	    --profile $(or $(PROFILE),default) --mode $(or $(MODE),quorum) $(JEPSEN_ARGS)

.PHONY: jepsen-bites
jepsen-bites: deps ## Turns safety rules off one by one, and lets the suite catch each; TIME=90 SEEDS="1 2 3" ONLY=rule
	@servers=$$(scripts/test-servers) && export PGCTL_TEST_PG_BINDIRS=$$servers && \
	  cargo build --locked --package agent --package ctl --package jepsen --bins --features agent/sabotage \
	    --target-dir target/sabotage && tests/jepsen-style/bites

.PHONY: bench-failover
bench-failover: ## Compares with Patroni on this machine; RUNS=5; writes bench/results/failover.json
	@scripts/install-deps bench
	@$(MAKE) --no-print-directory build
	@servers=$$(scripts/test-servers) && patroni=$$(scripts/patroni-venv target/patroni) && \
	  cargo build --release --locked --package lab --bin bench-failover && \
	  PGCTL_TEST_PG_BINDIRS=$$servers target/release/bench-failover --patroni "$$patroni" \
	    --runs $(or $(RUNS),5) $(BENCH_ARGS)

.PHONY: bench-backup
bench-backup: ## Compares archiving, backup and restore with pgBackRest; ROUNDS=5; writes bench/results/backup.json
	@scripts/install-deps bench-backup
	@$(MAKE) --no-print-directory build
	@cargo build --release --locked --package bench-backup && \
	  target/release/bench-backup --rounds $(or $(ROUNDS),5) $(BENCH_ARGS)

.PHONY: bench-ddl
bench-ddl: ## Measures what schema changes do to others, and linters; writes bench/results/ddl.json
	@scripts/install-deps bench
	@$(MAKE) --no-print-directory build
	@servers=$$(scripts/test-servers) && squawk=$$(scripts/squawk-venv target/squawk) && \
	  cargo build --release --locked --package lab --bin bench-ddl && \
	  PGCTL_TEST_PG_BINDIRS=$$servers target/release/bench-ddl --squawk "$$squawk" $(BENCH_ARGS)

.PHONY: install
install: build ## Installs the programs and the systemd unit (DESTDIR, PREFIX and UNIT_DIR are respected)
	install -D -m 755 target/release/pgctl-agent $(DESTDIR)$(PREFIX)/bin/pgctl-agent
	install -D -m 755 target/release/pgctl $(DESTDIR)$(PREFIX)/bin/pgctl $(DESTDIR)$(PREFIX)/bin/pgctl-wal
	install -D -m 755 target/release/pgctl-wal $(DESTDIR)$(PREFIX)/bin/pgctl-wal
	install -d -m 755 $(DESTDIR)$(UNIT_DIR)
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|' deploy/systemd/pgctl-agent.service \
	  > $(DESTDIR)$(UNIT_DIR)/pgctl-agent.service
	install -d -m 755 $(DESTDIR)/etc/pgctl
	test -e $(DESTDIR)/etc/pgctl/node.toml || install -m 640 deploy/node.toml $(DESTDIR)/etc/pgctl/node.toml
	@echo "Now edit /etc/pgctl/node.toml, then: systemctl daemon-reload && systemctl enable --now pgctl-agent"

.PHONY: uninstall
uninstall: ## Removes what `make install` put there, except the configuration
	rm -f $(DESTDIR)$(PREFIX)/bin/pgctl-agent $(DESTDIR)$(PREFIX)/bin/pgctl
	rm -f $(DESTDIR)$(UNIT_DIR)/pgctl-agent.service
