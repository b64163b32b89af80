# The control panel. It makes .venv; everything else is `python -m app COMMAND`, so Windows has the
# same without make. Works with GNU make 3.81, which macOS ships.
# PYTHON=python3.13 chooses the interpreter of a new .venv (`make clean` before, if there is one).

HOST = 127.0.0.1
PORT = 8000
APP = .venv/bin/python -m app
BENCH = .venv-bench/bin/python -m bench
export PYTHON

NODE_PEER = bench/peers/better_auth

# A stamp is written last, so that an interrupted installation is taken up again. A system upgrade
# may have removed the interpreter below a finished .venv: then it is made anew.
INSTALL = sh tools/install.sh
stale = $(if $(shell test -x $(1)/bin/python && echo there),,interpreter-gone)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test check lint format types migration migrate downgrade admin reset-link purge doctor \
	native-argon2 bench bench-growth bench-check torture mutation lock clean interpreter-gone

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

run: .venv/.runtime ## serve http://127.0.0.1:8000/docs; HOST=... PORT=... for another address
	@$(APP) setup
	@$(APP) run --host "$(HOST)" --port "$(PORT)"

test: .venv/.dev ## run every test on SQLite and on PostgreSQL; args="-k rotation" for some
	@$(APP) test $(args)

check: .venv/.dev ## what CI runs: lint, format, types, migrations, tests
	@$(APP) check

lint: .venv/.dev ## find mistakes (ruff)
	@$(APP) lint

format: .venv/.dev ## lay out the code (ruff)
	@$(APP) format

types: .venv/.dev ## check types (mypy)
	@$(APP) types

migration: .venv/.runtime ## write a migration for changed models; m="add nickname"
	@$(APP) migration -m "$$m"

migrate: .venv/.runtime ## bring the database to the newest migration
	@$(APP) migrate

downgrade: .venv/.runtime ## undo the newest migration
	@$(APP) downgrade

admin: .venv/.runtime ## make an administrator, asking for a password; email=you@example.com
	@$(APP) create-admin "$$email"

reset-link: .venv/.runtime ## print a link to choose a new password, to hand over; email=you@example.com
	@$(APP) reset-link "$$email"

purge: .venv/.runtime ## delete what has expired
	@$(APP) purge

doctor: .venv/.runtime ## show the configuration, and what is wrong with it
	@$(APP) doctor

native-argon2: .venv/.runtime ## hash faster, by argon2 built for this processor; undo=1 for the wheel
	@.venv/bin/python -m tools.native_argon2 $(if $(undo),--undo)

bench: .venv/.runtime .venv-bench/.bench $(NODE_PEER)/node_modules ## measure the service, its peers and the limits; args="--rounds 1"
	@$(BENCH) $(args)

bench-growth: .venv/.runtime .venv-bench/.bench ## measure the service with up to ten million logins
	@$(BENCH).growth $(args)

bench-check: .venv/.runtime .venv-bench/.bench ## has the service become slower? Two minutes
	@$(BENCH) --check

torture: .venv/.dev ## does it keep its promises under load, faults and failure? args="kill --scale 0.1"
	@.venv/bin/python -m torture $(args)

mutation: .venv/.dev ## which change of one thing would no test notice? args=app/core/rotation.py
	@.venv/bin/python -m tools.mutation $(args)

lock: .venv/.dev ## pin requirements*.txt again; upgrade=1 for the newest versions
	@$(APP) lock $(if $(upgrade),--upgrade)

clean: ## remove .venv, .venv-bench and caches; .env and the database stay
	@if [ -x .venv/bin/python ]; then $(APP) clean; fi
	@rm -rf .venv .venv-bench $(NODE_PEER)/node_modules

.venv/.runtime: requirements.txt $(call stale,.venv)
	@$(INSTALL) requirements.txt
	@touch $@

.venv/.dev: requirements-dev.txt $(call stale,.venv)
	@$(INSTALL) requirements-dev.txt
	@touch .venv/.runtime $@

.venv-bench/.bench: bench/requirements.txt $(call stale,.venv-bench)
	@$(INSTALL) bench/requirements.txt .venv-bench
	@touch $@

# A peer that may be missing: then the next call tries again.
$(NODE_PEER)/node_modules: $(NODE_PEER)/package.json
	@if ! command -v npm >/dev/null; then echo "npm is missing, so better-auth is left out."; \
	elif cd $(NODE_PEER) && \
		npm install --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error; \
	then touch node_modules; \
	else echo "npm failed, so better-auth is left out."; fi
