# SPDX-License-Identifier: Apache-2.0
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
ARCH := $(shell uname -m)
JOBS := $(shell nproc)
BUILD := build/selftest
# Lab machines that `make test` boots: two nodes with CPUs and one without, and known latencies. `make lab` boots all, tests
# the lab itself, runs the suite's own tests inside, and holds latencies to what was applied on a calm host.
LAB_SUBSET ?= (CPULESS or KNOWN_LATENCY) and not differences and not suites_own and not as_described

C_FILES = $$(find csrc tests -name '*.[ch]')
TEXT = csrc numabench tests benchmarks docs tools .ci Makefile setup.py pyproject.toml $(wildcard *.md)

.PHONY: help bench test side-by-side lint fix pytest coverage checks selftest programs asan asan-python tsan valgrind oldcpu aarch64 symbols peers lab \
  lab-subset wheel clean system system-test system-lab system-fleet fleet-test

help: ## this menu
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

bench: $(VENV)/.built ## build and measure this machine (pytest benchmarks/)
	$(BIN)/python -m pytest benchmarks -p no:cacheprovider

test: lint side-by-side pytest lab-subset ## everything that must pass
side-by-side: programs # the fleet's tests wait for Slurm's timers most of the time
	@+$(MAKE) --no-print-directory -j2 --output-sync=target checks fleet-test

lint: $(VENV)/.built ## the checks that need no running program
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/stubtest --mypy-config-file pyproject.toml --allowlist tools/stubtest-allowed.txt --ignore-unused-allowlist \
	  numabench._core numabench._hwloc
	PATH=$(CURDIR)/$(BIN):$$PATH cython-lint numabench
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)
	$(BIN)/lint-imports
	$(BIN)/codespell $(TEXT)
	$(BIN)/python tools/kernels_table.py --check

fix: $(VENV)/.built ## format
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES)
	$(BIN)/python tools/kernels_table.py

pytest: $(VENV)/.built system-fleet ## the Python tests that need no virtual machine
	$(BIN)/python -m pytest -m "not lab and not fleet" -q

fleet-test: $(VENV)/.built system-fleet ## a real Slurm cluster, Open MPI, ReFrame on this machine; NODES=64 for more
	NUMABENCH_FLEET_NODES=$(NODES) $(BIN)/python -m pytest -q -m fleet tests/fleet

coverage: $(VENV)/.built system-fleet ## which lines those reach, commands in subprocesses included; takes half as long again
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -m "not lab" -q
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

# ---- the C core without an interpreter: one set of objects per way of checking ----------------------------------------
CFLAGS_OWN := -std=c11 -g -O2 -Wall -Wextra -Wshadow -Werror
# As in setup.py, which is the table that counts: what is checked should be what is shipped.
CFLAGS_KERNEL := -fno-builtin -fno-tree-loop-distribute-patterns
TIER_scalar := -fno-tree-vectorize -fno-tree-slp-vectorize
TIER_avx2 := -O3 -march=x86-64-v3
TIER_avx512 := -O3 -march=x86-64-v4
TIER_neon := -O3
TIERS_x86_64 := scalar avx2 avx512
TIERS_aarch64 := scalar neon
TIERS_$(ARCH) ?= scalar
HEADERS := $(shell find csrc -name '*.h')
CPU := $(shell grep -m1 -iE '^(flags|features)' /proc/cpuinfo)

# Tiers that this CPU runs: the others are compiled once, to be linked, and not once more with checks that never run.
RUNS := scalar $(if $(filter fma,$(CPU)),avx2) $(if $(filter avx512vl,$(CPU)),avx512) $(if $(filter asimd,$(CPU)),neon)

# $(call way,NAME,ARCHITECTURE,COMPILER,FLAGS,LIBRARIES,TIERS with these flags; others as in plain)
define way
$(BUILD)/$(1)/%.o: csrc/%.c $(HEADERS) Makefile | system-test
	@mkdir -p $$(@D)
	$(3) $(CFLAGS_OWN) $(4) -c $$< -o $$@
$(BUILD)/$(1)/isa-%.o: csrc/isa/%.c $(HEADERS) Makefile | system-test
	@mkdir -p $$(@D)
	$(3) $(CFLAGS_OWN) $(CFLAGS_KERNEL) $(4) $$(TIER_$$*) -c $$< -o $$@
$(BUILD)/$(1)/%: tests/csrc/%_selftest.c $(wildcard tests/csrc/*.h) $(patsubst csrc/%.c,$(BUILD)/$(1)/%.o,$(wildcard csrc/*.c)) \
  $(patsubst %,$(BUILD)/$(1)/isa-%.o,$(6)) $(patsubst %,$(BUILD)/plain/isa-%.o,$(filter-out $(6),$(TIERS_$(2))))
	$(3) $(CFLAGS_OWN) -fno-builtin $(4) -Icsrc $$(filter-out %.h,$$^) -o $$@ $(5) -pthread -lm
PROGRAMS += $(BUILD)/$(1)/core
endef
comma := ,
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
$(eval $(call way,plain,$(ARCH),$(CC),,-lnuma,$(TIERS_$(ARCH))))
# The kernels are large functions: checks that are calls, and lines without variables in the debug information, compile
# in a quarter of the time. clang has no such parameter.
QUICK_ASAN := $(if $(findstring clang,$(shell $(CC) --version)),,--param asan-instrumentation-with-call-threshold=100)
$(eval $(call way,asan,$(ARCH),$(CC),-g1 -fsanitize=address$(comma)undefined -fno-sanitize-recover=all $(QUICK_ASAN),-lnuma,$(filter $(RUNS),$(TIERS_$(ARCH)))))
# What threads hand to each other is scalar code in every tier, and the kernels' own test has one thread.
$(eval $(call way,tsan,$(ARCH),$(CC),-g1 -fsanitize=thread,-lnuma,scalar))
PROGRAMS += $(BUILD)/plain/kernels $(BUILD)/asan/kernels
ifneq ($(ARCH),aarch64)
# There is no libnuma for the other architecture: numaif.c has the two system calls that the core makes through it.
$(eval $(call way,aarch64,aarch64,aarch64-linux-gnu-gcc,-idirafter /usr/include,tests/csrc/numaif.c -static,$(TIERS_aarch64)))
PROGRAMS += $(BUILD)/aarch64/kernels
endif
.SECONDARY:

checks: programs ## every way of checking the C core, side by side
	@+$(MAKE) --no-print-directory -j$(JOBS) --output-sync=target selftest asan tsan valgrind oldcpu aarch64 symbols
programs: ## build all of them
	@+$(MAKE) --no-print-directory -s -j$(JOBS) $(PROGRAMS)
selftest: programs ## the core and the kernels without an interpreter
	$(BUILD)/plain/core
	$(BUILD)/plain/kernels
asan: programs ## the same under address, leak and undefined-behaviour checks
	$(BUILD)/asan/core
	$(BUILD)/asan/kernels
tsan: programs ## the same under the thread checker
	@# It cannot stand randomised addresses on some systems; a container may forbid to switch them off.
	run=; if setarch -R true 2>/dev/null; then run="setarch -R"; fi; \
	  $$run $(BUILD)/tsan/core
asan-python: $(VENV)/.built ## the extension modules under address and undefined-behaviour checks, by the tests of the core
	NUMABENCH_CFLAGS="$(SANITIZE) -g1" NUMABENCH_LDFLAGS="$(SANITIZE)" PYTHONWARNINGS=ignore $(BIN)/python setup.py -q build \
	  --build-lib build/asan-python/lib --build-temp build/asan-python/tmp
	@# Not the leak tests, which look at resident memory that the checker keeps, nor those of the instructions themselves.
	cd build/asan-python/lib && LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc $(CURDIR)/$(BIN)/python -m pytest -q -p no:cacheprovider \
	  --rootdir $(CURDIR) -c $(CURDIR)/pyproject.toml $(addprefix $(CURDIR)/tests/,core kernels memory instance) \
	  --ignore $(CURDIR)/tests/core/test_leaks.py --ignore $(CURDIR)/tests/kernels/test_disassembly.py
valgrind: programs ## the core under valgrind, which hides AVX-512
	valgrind -q --fair-sched=try --child-silent-after-fork=yes --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=all $(BUILD)/plain/core quick
oldcpu: programs ## both on an emulated CPU without AVX: nothing outside the tiers may use it
ifeq ($(ARCH),x86_64)
	qemu-x86_64-static -cpu Nehalem $(BUILD)/plain/core quick
	qemu-x86_64-static -cpu Nehalem $(BUILD)/plain/kernels
else
	@echo "oldcpu: for x86-64 only"
endif
aarch64: programs ## both built for aarch64, emulated
ifneq ($(ARCH),aarch64)
	qemu-aarch64-static $(BUILD)/aarch64/core quick
	qemu-aarch64-static $(BUILD)/aarch64/kernels
else
	@echo "aarch64: this machine is one, the other checks have run there"
endif
symbols: $(VENV)/.built ## the modules export their init function only
	bash tools/check-symbols.sh numabench/_core.*.so numabench/_hwloc.*.so

peers: $(VENV)/.built ## the same figures by other programs, side by side
	$(BIN)/python -m benchmarks.peers

lab: $(VENV)/.built system-lab ## tests in virtual machines with many nodes
	$(BIN)/python -m pytest -m lab tests/lab
lab-subset: $(VENV)/.built system-lab
	$(BIN)/python -m pytest -q -m lab tests/lab -k "$(LAB_SUBSET)"

wheel: $(VENV)/.built ## a wheel in dist/
	$(BIN)/pip wheel -q --no-build-isolation --no-deps -w dist .

clean: ## remove all that was built, the virtual environment too
	rm -rf build dist $(VENV) *.egg-info .coverage* numabench/*.so numabench/_core.c numabench/_hwloc.c

# ---- what must be there: Debian package and the file or command that shows it -----------------------------------------
PACKAGES := gcc:cc libc6-dev:/usr/include/stdio.h libnuma-dev:/usr/include/numaif.h libhwloc-dev:/usr/include/hwloc.h
PACKAGES_TEST := $(PACKAGES) valgrind:valgrind binutils:nm util-linux:setarch qemu-user-static:qemu-aarch64-static chromium:chromium
ifneq ($(ARCH),aarch64)
PACKAGES_TEST += gcc-aarch64-linux-gnu:aarch64-linux-gnu-gcc libc6-dev-arm64-cross:/usr/aarch64-linux-gnu/lib/libc.a
endif
PACKAGES_FLEET := slurm-wlm:slurmctld munge:munged openmpi-bin:mpirun iproute2:ss
NODES ?= 8
# slurmd needs root; a user without it sees those tests skipped by name.
export NUMABENCH_FLEET := $(if $(filter 0,$(shell id -u)),required)
PACKAGES_LAB := qemu-system-x86:qemu-system-x86_64 seabios:/usr/share/seabios/bios-256k.bin \
  busybox-static:busybox cpio:cpio kmod:depmod numactl:numactl
system:
	@bash tools/system-packages.sh $(PACKAGES)
system-test:
	@bash tools/system-packages.sh $(PACKAGES_TEST)
system-fleet:
	@PATH=$$PATH:/usr/sbin; bash tools/system-packages.sh $(PACKAGES_FLEET)
system-lab:
	@bash tools/system-packages.sh $(PACKAGES_LAB)

$(VENV)/.installed: pyproject.toml tools/make-venv.sh | system
	@bash tools/make-venv.sh $(VENV) $(PYTHON)
	@touch $@
$(VENV)/.built: $(VENV)/.installed setup.py $(wildcard csrc/*.c csrc/isa/*.c numabench/*.p[yx][xdi]) $(HEADERS)
	NUMABENCH_WERROR=1 PYTHONWARNINGS=ignore $(BIN)/pip install -q --no-build-isolation -e .
	@touch $@
