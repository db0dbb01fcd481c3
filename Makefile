# make demo    set up, make a sample snapshot and scan it
# make test    set up and run the tests; ALL=1: with the long ones, which try the same for longer or once more
# make demo-vm boot a real Linux guest under QEMU and scan its RAM
# make check   lint and types
# make native  the C core's own tests, without Python (also: native-sanitize, native-tsan,
#              native-aarch64, native-valgrind, native-analyse)
# make fuzz SECONDS=60   random input for the C core (libFuzzer), the service and the parsers
# make mutants SECONDS=1800  deciding lines changed one by one: the tests have to notice; SEED=N a random order
# make sanitize-extension  the extension under Python with AddressSanitizer and UBSan
# make docs    docs/python-api.md and the tables of docs/shm-layout.md, from the sources
# make models  the ring's protocol in Spin, and its mutants
# make bounds  the tests at both ends of the supported range: oldest and newest dependencies, Pythons
# make dist-check  an sdist and a wheel, built, installed outside the tree and used there
# make soak    a service used, killed and sampled at rest for MINUTES=30
# make stress  random worlds for some minutes: MINUTES=10 SEED=1
# make bench   every benchmark (minutes); make bench-quick  the twelve rows that matter (two minutes)

PYTHON ?= python3
CC = gcc
VENV ?= .venv
BIN := $(VENV)/bin
PACKAGE := $(VENV)/.package
TOOLS := $(VENV)/.tools
SAMPLE := build/sample.ram
SEED ?= 1
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo demo-vm test check native native-sanitize native-tsan native-aarch64 docs models bounds dist-check soak stress bench bench-quick clean native-valgrind native-analyse fuzz mutants sanitize-extension

$(PACKAGE): setup.cfg setup.py pyproject.toml $(wildcard pagecheck/native/*/*.[ch])
	@tools/needs "$(PYTHON)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(PIP) --config-settings editable_mode=compat -e .
	@touch $@

$(TOOLS): $(PACKAGE)
	@$(PIP) --config-settings editable_mode=compat -e '.[test,dev,survey,test-survey]'
	@touch $@

demo: $(PACKAGE)
	@mkdir -p build
	$(BIN)/python -m tools.sample $(SAMPLE)
	$(BIN)/pagecheck scan $(SAMPLE)

demo-vm: $(PACKAGE)
	@mkdir -p build
	$(BIN)/python -m tools.guest fetch
	$(BIN)/python -m tools.guest boot --snapshot build/guest.ram
	$(BIN)/pagecheck scan build/guest.ram

test: $(TOOLS) native
	tools/all-tests $(BIN)/python $(if $(ALL),,--short)

check: $(TOOLS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(CC) -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -fsyntax-only \
	    -I$(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_paths()["include"])') \
	    pagecheck/native/*/*.c
	$(BIN)/clang-format --dry-run --Werror $(wildcard pagecheck/native/*/*.[ch] pagecheck/include/*.h \
	    tests/native/*.[ch] tests/abi/*.c tools/bench/*.[ch] examples/*.c)

native native-sanitize native-tsan native-aarch64 native-valgrind native-analyse:
	$(MAKE) --no-print-directory -C tests/native PYTHON="$(PYTHON)" $(patsubst native-%,%,$(@:native=native-test))

# Half of the time is libFuzzer's, half that of two tests on a service.
fuzz: SECONDS = 60
fuzz: $(TOOLS)
	$(MAKE) --no-print-directory -C tests/native fuzz SECONDS=$$(( $(SECONDS) / 2 ))
	PAGECHECK_FUZZ_SECONDS=$$(( $(SECONDS) / 4 )) $(BIN)/python -m pytest -q tests/fuzz

mutants: SECONDS = 1800
mutants: $(TOOLS)
	$(BIN)/python -m tools.mutants --seconds $(SECONDS) $(if $(filter command% environment%,$(origin SEED)),--seed $(SEED))

sanitize-extension: $(TOOLS)
	tools/sanitize-extension $(BIN)/python

docs: $(PACKAGE)
	$(BIN)/python -m tools.python_api
	$(BIN)/python -m tools.shm_layout

models: $(TOOLS)
	$(BIN)/python -m tools.check_models

bounds:
	tools/bounds oldest & oldest=$$!; newest=0; tools/bounds newest || newest=$$?; \
	    wait $$oldest && exit $$newest

dist-check:
	@tools/needs "$(PYTHON)"
	tools/dist-check "$(PYTHON)"

soak: MINUTES ?= 30
soak: $(TOOLS)
	$(BIN)/python -m tools.soak run --minutes $(MINUTES)

stress: MINUTES ?= 10
stress: $(TOOLS)
	$(BIN)/python -m pytest tests/stress --minutes $(MINUTES) --seed $(SEED)

bench: $(TOOLS)
	$(BIN)/python -m tools.bench all

bench-quick: $(TOOLS)
	$(BIN)/python -m tools.bench quick

clean:
	rm -rf build dist *.egg-info $(VENV) pagecheck/native/*.so
