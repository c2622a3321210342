# Each target makes what it needs: a virtual environment in .venv, Debian's packages where missing.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made
PACKAGES := redis-server nftables libnftables1 iproute2 e2fsprogs cryptsetup-bin util-linux gcc make \
	strace
PYTEST := $(BIN)/python -m pytest

.PHONY: help demo test check crash bench soak man dashboard system clean
help:
	@echo "make demo       the whole life of a few instances, in a sandbox of its own, under a minute"
	@echo "make test       everything that proves hostd; make check is its fast part"
	@echo "make crash      hostd killed before and after every effect, every point (an hour)"
	@echo "make bench      figures, as ratios, into build/bench.json"
	@echo "make soak       ten minutes of 4 hosts, 200 instances and kills; SECONDS=60 for less"
	@echo "make man        a man page for each command of hostd and hostctl, into build/man"
	@echo "make dashboard  rq-dashboard without pickle on 127.0.0.1:9181 (REDIS=redis://...)"

demo: system $(STAMP)
	@$(BIN)/hostd demo $(DEMO)

test: system $(STAMP) check
	@$(PYTEST) tests -m "not bench" -rs --ignore=tests/unit

check: $(STAMP)
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo > build/imports.log || (cat build/imports.log; exit 1)
	@$(PYTEST) tests/unit

crash: system $(STAMP)
	@$(BIN)/python -m tests.crash.process $(CRASH)

bench: system $(STAMP)
	@mkdir -p build
	@$(BIN)/python -m bench $(BENCH)

soak: SECONDS ?= 600
soak: system $(STAMP)
	@$(BIN)/python -m tests.soak.play --seconds $(SECONDS) --instances 50 --pause-s 12 $(SOAK)

man: $(STAMP)
	@$(BIN)/click-man --target build/man hostd > build/man.log && \
		$(BIN)/click-man --target build/man hostctl >> build/man.log
	@echo "build/man: see them with man -l build/man/hostd.1"

dashboard: $(STAMP)
	@$(BIN)/python -m worker.dashboard $(if $(REDIS),--redis $(REDIS))

$(STAMP): pyproject.toml
	@mkdir -p build
	@echo "making $(VENV) ..."
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "hostd needs Python 3.11 or newer as python3"; exit 1; }
	@python3 -c 'import ensurepip' 2> /dev/null || $(MAKE) --no-print-directory system \
		PACKAGES="$$(python3 -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')"
	@test -x $(BIN)/python || python3 -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,dashboard]'
	@touch $@

# Installs what is missing, and says so; quick when nothing is.
system:
	@mkdir -p build
	@test "$$(id -u)" = 0 || { echo "hostd needs root: it makes devices and control groups"; exit 1; }
	@missing=$$(dpkg-query -W -f '$${db:Status-Status} $${Package}\n' $(PACKAGES) 2>/dev/null \
		| awk '$$1 == "installed" {print $$2}' | sort | comm -13 - <(printf '%s\n' $(PACKAGES) | sort)); \
	if [ -n "$$missing" ]; then \
		command -v apt-get > /dev/null || { echo "please install:" $$missing; exit 1; }; \
		echo "installing" $$missing "..."; \
		export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; \
		{ apt-get install -qq -y --no-install-recommends $$missing || { apt-get update -qq \
			&& apt-get install -qq -y --no-install-recommends $$missing; }; } > build/apt.log 2>&1 \
			|| { tail -5 build/apt.log; exit 1; }; \
	fi

clean:
	@rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache *.egg-info
