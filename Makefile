# SPDX-License-Identifier: Apache-2.0
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CSRC := $(wildcard csrc/*.c)
HEADERS := $(shell find csrc -name '*.h')
CFLAGS_OWN := -std=c11 -g -Wall -Wextra -Wshadow -Werror -fno-builtin -fno-tree-loop-distribute-patterns
BUILD := build/selftest
# The ISA flags of each tier, as setup.py has them; a selftest links every tier of this machine.
TIERS_x86_64 := scalar:-fno-tree-vectorize avx2:-march=x86-64-v3 avx512:-march=x86-64-v4
TIERS_aarch64 := scalar:-fno-tree-vectorize neon:
ARCH := $(shell uname -m)

.PHONY: help bench test lint fix selftest asan tsan valgrind oldcpu wheel lab clean pytest
help: ## this menu
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

bench: $(VENV)/.built ## build and measure this machine (pytest benchmarks/)
	$(BIN)/python -m pytest benchmarks -p no:cacheprovider

test: lint selftest asan tsan valgrind oldcpu pytest ## everything that must pass

pytest: $(VENV)/.built
	$(BIN)/python -m pytest -m "not lab" --cov --cov-report=term -q

lint: $(VENV)/.built ## the checks that need no running program
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH=$(CURDIR)/$(BIN):$$PATH cython-lint numabench
	$(BIN)/clang-format --dry-run -Werror $$(git ls-files 'csrc/*.c' 'csrc/*.h' 'tests/*.c')
	$(BIN)/lint-imports
	$(BIN)/codespell $$(git ls-files | grep -vE '/data/|LICENSE')

fix: $(VENV)/.built ## format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.c' 'csrc/*.h' 'tests/*.c')

# $(call selftest_build,OUTPUT,SOURCE,FLAGS): one program over the core and every tier of this machine
define selftest_build
	@mkdir -p $(BUILD)
	set -e; objects=; for t in $(TIERS_$(ARCH)); do name=$${t%%:*}; \
	  $(CC) $(CFLAGS_OWN) -O2 $(3) $${t#*:} -c csrc/isa/$$name.c -o $(1).$$name.o; objects="$$objects $(1).$$name.o"; done; \
	$(CC) $(CFLAGS_OWN) -O1 $(3) -Icsrc $(2) $(CSRC) $$objects -o $(1) -lnuma -lpthread -lm
endef

$(BUILD)/plain-%: tests/csrc/%_selftest.c $(CSRC) $(HEADERS) | system
	$(call selftest_build,$@,$<,)
$(BUILD)/asan-%: tests/csrc/%_selftest.c $(CSRC) $(HEADERS) | system
	$(call selftest_build,$@,$<,-fsanitize=address$(,)undefined -fno-sanitize-recover=all)
$(BUILD)/tsan-%: tests/csrc/%_selftest.c $(CSRC) $(HEADERS) | system
	$(call selftest_build,$@,$<,-fsanitize=thread)
, := ,

selftest: $(BUILD)/plain-core $(BUILD)/plain-kernels ## the core and the kernels without an interpreter
	$(BUILD)/plain-core
	$(BUILD)/plain-kernels
asan: $(BUILD)/asan-core $(BUILD)/asan-kernels ## the same under address and undefined-behaviour checks
	$(BUILD)/asan-core
	$(BUILD)/asan-kernels
tsan: $(BUILD)/tsan-core $(BUILD)/tsan-kernels ## the same under the thread checker
	setarch -R $(BUILD)/tsan-core
	setarch -R $(BUILD)/tsan-kernels
valgrind: $(BUILD)/plain-core ## the core under valgrind
	valgrind -q --error-exitcode=1 --leak-check=full $(BUILD)/plain-core quick
oldcpu: $(BUILD)/plain-kernels ## the kernels on an emulated CPU without AVX: the dispatch must find the scalar tier
	[ $(ARCH) != x86_64 ] || qemu-x86_64-static -cpu Nehalem $(BUILD)/plain-kernels

wheel: $(VENV)/.built ## a wheel in dist/
	$(BIN)/pip wheel -q --no-build-isolation --no-deps -w dist .

lab: $(VENV)/.built system-lab ## the whole suite in virtual machines with many nodes
	$(BIN)/python -m pytest -m lab tests/lab

clean:
	rm -rf build dist $(VENV) numabench/*.so numabench/_core.c numabench/_hwloc.c

# System packages: installed as root or with sudo, else the one line to type.
PACKAGES := gcc:gcc libnuma-dev:/usr/include/numaif.h libhwloc-dev:/usr/include/hwloc.h \
  libc6-dev:/usr/include/stdio.h valgrind:valgrind util-linux:setarch qemu-user-static:qemu-x86_64-static
PACKAGES_LAB := qemu-system-x86:qemu-system-x86_64 seabios:/usr/share/seabios/bios-256k.bin \
  busybox-static:busybox cpio:cpio kmod:depmod numactl:numactl
.PHONY: system system-lab
system:
	@bash tools/system-packages.sh $(PACKAGES)
system-lab:
	@bash tools/system-packages.sh $(PACKAGES_LAB)

$(VENV)/.installed: pyproject.toml | system
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "numabench needs Python 3.11 or newer: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || bash tools/system-packages.sh python3-venv:/nonexistent
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -U 'pip>=25.1'
	$(BIN)/pip install -q --group test --group lint 'setuptools>=77' 'Cython>=3.1'
	touch $@
$(VENV)/.built: $(VENV)/.installed setup.py $(CSRC) $(wildcard csrc/isa/*.c) $(HEADERS) $(wildcard numabench/*.pyx numabench/*.pxd numabench/*.pxi)
	NUMABENCH_WERROR=1 $(BIN)/pip install -q --no-build-isolation -e .
	touch $@
