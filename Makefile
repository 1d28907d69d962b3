# GQABench's commands. Each one sets up what it needs: `make help` lists them.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check --no-input
READY := $(VENV)/.ready
NEWEST_VENV := .venv-newest

STUDY ?= default
ARGS ?=
PYTEST_ARGS ?=
OFFLINE ?=

# The torch that the lock pins. pyproject.toml allows older and newer ones.
LOCK_TORCH ?= 2.13.0
# The Triton that CUDA builds of that torch name exactly.
LOCK_TRITON ?= 3.7.1
LOCK_PYTHON := 3.11
# Of the compiled packages, those that a host with torch is likely to lack, and the hosts that they are gathered for.
COMPILED_WHEELS := hypothesis|ruptures
HOST_PYTHONS ?= 3.11 3.12 3.13
HOST_PLATFORMS ?= manylinux_2_17_x86_64 manylinux2014_x86_64 manylinux_2_28_x86_64
WHEELHOUSE_MAX_KIB := 30720

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup sweep test test-newest test-gpu lint bench-harness bench-kernels gpu-verification gpu-kit reference-runs check docs format lock wheelhouse peer-wheels clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  PYTHON=python3.12         the interpreter that .venv is made of'
	@echo '  STUDY=name                the study of make sweep'
	@echo '  ARGS="measure=smoke"      more for make sweep, make bench-harness, make peer-wheels'
	@echo '  PYTEST_ARGS="-k name"     more for pytest'
	@echo '  OFFLINE=1                 set up from wheelhouse/ over the packages of PYTHON, without a network'

setup: $(READY) ## make .venv with the locked dependencies and this checkout, editable

sweep: $(READY) ## run a study: its records, figures and report
	$(VENV)/bin/gqabench sweep study=$(STUDY) $(ARGS)

test: $(READY) ## run the tests that need no GPU
	$(RUN_TESTS)

test-newest: PY := $(NEWEST_VENV)/bin/python
test-newest: ## run the same tests with the newest version of every dependency, in an environment of their own
	[ -e $(PY) ] || "$(PYTHON)" -m venv $(NEWEST_VENV)
	$(PIP) install --upgrade setuptools
	$(PIP) install --upgrade --upgrade-strategy eager --no-build-isolation --editable '.[test]'
	$(PIP) list
	$(RUN_TESTS)

test-gpu: $(READY) ## run the tests that need an NVIDIA GPU
	@$(PY) -c 'import sys, torch; torch.cuda.is_available() or sys.exit(f"make test-gpu needs an NVIDIA GPU, and torch {torch.__version__} sees none here")'
	$(PY) -m pytest $(SIDE_BY_SIDE) -m "gpu and not alone" $(PYTEST_ARGS) $(NONE_CHOSEN)
	$(PY) -m pytest -m "gpu and alone" $(PYTEST_ARGS) $(NONE_CHOSEN)

bench-harness: $(READY) ## measure what the harness itself costs
	$(PY) tests/benchmarks/harness_overhead.py $(ARGS)
	$(PY) tests/benchmarks/comparison_cost.py
	$(PY) tests/benchmarks/coldness.py

bench-kernels: $(READY) ## check, tune and measure our own kernels beside their peers: for a GPU
	$(PY) operations/kernels_on_gpu.py $(ARGS)

gpu-verification: $(READY) ## all that is to be shown on a GPU, in pieces of seven minutes: ARGS="--piece 1"
	$(PY) operations/gpu_verification.py $(ARGS)

gpu-kit: HOST_PYTHONS := 3.12
gpu-kit: wheelhouse ## all that gpu-verification needs on a GPU host without a network, in one folder
	$(PY) operations/gpu_kit.py $(ARGS)

docs: $(READY) ## write the reference pages in docs/ from the tables of the code
	$(PY) docs/generate

reference-runs: $(READY) ## measure the reference studies of this machine, part by part: for a GPU
	$(PY) operations/reference_runs.py $(ARGS)

check: lint test ## formatting, lint, spelling, types and tests

lint: $(READY) ## check formatting, lint, spelling and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m codespell_lib
	$(PY) -m mypy
	MYPYPATH=operations $(PY) -m mypy operations

format: $(READY) ## format the code and fix what ruff can fix
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

# Tests that measure come last, by themselves. PYTEST_ARGS may choose none of a kind, for which pytest exits with 5.
# One thread a process, as the processes are as many as the cores. Each has a run of tests that stand together, and
# takes from another's only when its own are done: so what the tests of a module share is seldom made twice.
NONE_CHOSEN = $(if $(PYTEST_ARGS),|| [ $$? -eq 5 ])
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist worksteal
# Bytecode is kept whatever the shell says: the tests start a hundred interpreters, and each would compile everything.
ALONE = $$(grep -rl 'pytest\.mark\.alone' tests --include='test_*.py')
define RUN_TESTS
PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PY) -m pytest $(SIDE_BY_SIDE) -m "not gpu and not alone" --ignore=tests/benchmarks $(PYTEST_ARGS) $(NONE_CHOSEN)
PYTHONDONTWRITEBYTECODE= $(PY) -m pytest -m "alone and not gpu" $(ALONE) $(PYTEST_ARGS) $(NONE_CHOSEN)
endef

# Set-up. The stamp is written last and removed first, so an interrupted set-up starts afresh; a finished
# one whose pyproject.toml or lock has changed since is brought up to date in place.
$(READY): pyproject.toml $(if $(OFFLINE),,requirements.lock)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo 'GQABench needs Python 3.11 or newer, and PYTHON=$(PYTHON) is not; name one, as in: make PYTHON=python3.12' >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv$(if $(OFFLINE),,, ensurepip)' 2>/dev/null || \
		{ echo 'GQABench needs the venv module, and PYTHON=$(PYTHON) has none; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@if [ -e $@ ] && $(PY) -c '' 2>/dev/null; then rm $@; else "$(PYTHON)" -m venv --clear $(VENV_FLAGS) $(VENV); fi
	$(INSTALL)
	@touch $@

ifeq ($(OFFLINE),)
VENV_FLAGS :=
# setuptools first: antlr4-python3-runtime (of hydra-core) is published as source only, and is built with the
# locked setuptools rather than with whichever is newest that day.
define INSTALL
	$(PIP) install --constraint requirements.lock setuptools
	$(PIP) install --no-build-isolation --requirement requirements.lock
	$(PIP) install --no-build-isolation --no-deps --editable .
endef
else
VENV_FLAGS := --without-pip
define INSTALL
	@[ -d wheelhouse ] || { echo 'OFFLINE=1 installs from wheelhouse/, and there is none: run make wheelhouse where there is a network, and copy it here' >&2; exit 1; }
	@"$(PYTHON)" -c "$$LEND_PACKAGES" > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lent.pth"
	$(PIP) install --quiet --no-index --find-links wheelhouse --editable '.[test]'
endef
endif

# The folders where PYTHON finds its packages, as lines for a .pth file. The flag --system-site-packages would not do:
# where PYTHON is a virtual environment's, it lends the packages of the interpreter underneath, and not PYTHON's.
define LEND_PACKAGES
import site

folders = site.getsitepackages() + ([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])
for folder in folders:
    print(f"import site; site.addsitedir({folder!r})")
endef
export LEND_PACKAGES

lock: ## resolve pyproject.toml afresh and write requirements.lock
	@"$(PYTHON)" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(LOCK_PYTHON)")' || \
		{ echo 'the lock is resolved by the oldest Python that it serves: make lock PYTHON=python$(LOCK_PYTHON)' >&2; exit 1; }
	rm -rf build
	"$(PYTHON)" -m venv build/venv
	build/venv/bin/python -m pip --disable-pip-version-check --quiet install --dry-run --ignore-installed \
		--report build/report.json torch==$(LOCK_TORCH) triton==$(LOCK_TRITON) '.[dev]'
	"$(PYTHON)" -c "$$WRITE_LOCK" build/report.json > build/requirements.lock
	mv build/requirements.lock requirements.lock
	rm -rf build

# pip's report of what it would install, as pins with the names of the packages that ask for each.
define WRITE_LOCK
import json, re, sys

def name_of(requirement):
    return re.sub("[-_.]+", "-", re.match("[A-Za-z0-9._-]+", requirement)[0]).lower()

with open(sys.argv[1]) as file:
    packages = {name_of(item["metadata"]["name"]): item["metadata"] for item in json.load(file)["install"]}
askers = {name: set() for name in packages}
for name, package in packages.items():
    for requirement in package.get("requires_dist", []):
        of_extra = re.search(r"extra *==", requirement) and name != "gqabench"
        if name_of(requirement) in packages and not of_extra:
            askers[name_of(requirement)].add(name)

print("# What make setup installs: exact versions for Python 3.11 to 3.13. Written by make lock; do not edit.")
print("# torch==X also stands for builds of X with a local version, such as X+cpu: pip takes the CPU build wherever it")
print("# is offered one. The CUDA libraries are left out: a CUDA build of torch names its own, exactly. Triton is the one")
print("# that such a build names: tests compile and interpret kernels with it where torch is a CPU build.")
for name in sorted(set(packages) - {"gqabench"}):
    if not re.fullmatch("cuda-.*|nvidia-(?!ml-py).*", name):
        version = packages[name]["version"].partition("+")[0]
        marker = '; platform_system == "Linux"' if name == "triton" else ""
        print(f"{name}=={version}{marker}  # {', '.join(sorted(askers[name] - {name}))}")
endef
export WRITE_LOCK

wheelhouse: $(READY) ## gather the wheels that a host with torch may lack, for one without a network
	rm -rf build wheelhouse
	mkdir -p build
	$(PY) -c "$$PURE_PINS" > build/pure.txt
	$(PIP) --quiet wheel --no-deps --no-build-isolation --wheel-dir wheelhouse --requirement build/pure.txt .
	grep -E '^($(COMPILED_WHEELS))==' requirements.lock > build/compiled.txt
	for version in $(HOST_PYTHONS); do $(PIP) --quiet download --no-deps --only-binary :all: --dest wheelhouse \
		--python-version $$version $(HOST_PLATFORMS:%=--platform %) --requirement build/compiled.txt || exit; done
	rm -rf build
	@cd wheelhouse && ls
	@kib=$$(du -sk wheelhouse | cut -f 1); \
		echo "$$(ls wheelhouse | wc -l) wheels, $$kib KiB in wheelhouse/"; \
		[ "$$kib" -le $(WHEELHOUSE_MAX_KIB) ] || { echo 'wheelhouse/ is larger than $(WHEELHOUSE_MAX_KIB) KiB' >&2; exit 1; }
	@echo 'On a host that has torch and the other compiled packages, install what it lacks with:'
	@echo "  python3 -m pip install --no-index --find-links wheelhouse 'gqabench[test]'"
	@echo 'or, in a checkout with wheelhouse/ beside this Makefile, add OFFLINE=1: make test-gpu OFFLINE=1'

# Of what gqabench[test] needs, the locked packages that are installed from wheels without compiled code. What torch
# needs is where torch is; setuptools is there because an editable install builds with it, apart from what is installed.
define PURE_PINS
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

def walk(asked):
    name = canonicalize_name(asked.name)
    if name == "torch" or (name, *asked.extras) in walked:
        return
    walked.add((name, *asked.extras))
    package = distribution(name)
    pin = name + "==" + package.version
    if pin in locked and "-none-any" in (package.read_text("WHEEL") or ""):
        pins.add(pin)
    for further in map(Requirement, package.requires or []):
        if not further.marker or any(further.marker.evaluate({"extra": extra}) for extra in asked.extras | {""}):
            walk(further)

locked = {line.split()[0] for line in Path("requirements.lock").read_text().splitlines() if line[:1] != "#"}
walked, pins = set(), set()
walk(Requirement("gqabench[test]"))
walk(Requirement("setuptools"))
print(*sorted(pins), sep="\n")
endef
export PURE_PINS

peer-wheels: $(READY) ## gather the wheels of peers for CUDA, for a GPU host without a network
	$(PY) operations/gather_peers.py $(ARGS)

clean: ## remove what these commands made, but for the runs in results/runs/
	rm -rf $(VENV) $(NEWEST_VENV) wheelhouse wheelhouse-peers gpu-kit build dist gqabench.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
