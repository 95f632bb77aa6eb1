# SPDX-License-Identifier: Apache-2.0
"""The instructions that a kernel is named for are in the built module, and those that would change it are not."""

from __future__ import annotations

import itertools
import platform
import re
import shutil
import subprocess
from typing import NamedTuple

import pytest

from numabench import _core, kernels

X86 = platform.machine() == "x86_64"
TIERS = [name for name in ("scalar", "avx2", "avx512", "neon") if name in kernels.tiers()]
REGISTER = {"scalar": "", "avx2": "%ymm", "avx512": "%zmm", "neon": ""}
NT_STORE = re.compile(r"^(v?movnt|stnp)")
FMA = re.compile(r"^(vfn?m(add|sub)\d+[ps][sd]|fmadd|fmla)")
# Memory reached in vectors; moves between registers are how compilers keep what lasts over a loop.
VECTOR = re.compile(r"%[yz]mm|^v?p?gather|^v?(movdq[au]|mov[au]p[sd]|lddqu).*\(")
LONG_CHAINS, IN_REGISTERS = {15, 16}, 16  # those park pointers in vector registers on x86-64 (chase.inc.h)


class Line(NamedTuple):
    address: int
    text: str


def disassemble() -> dict[tuple[str, str], list[Line]]:
    """Instructions by (tier, function); the symbol table names the source file before its local symbols."""
    objdump = shutil.which("objdump")
    if objdump is None:
        return {}
    symbols = subprocess.run([objdump, "-t", _core.__file__], capture_output=True, text=True, check=True).stdout
    owner: dict[int, tuple[str, str]] = {}
    tier = ""
    for line in symbols.splitlines():
        if found := re.search(r" df \*ABS\*\s+\S+\s+(\S*)", line):
            tier = found[1].removesuffix(".c")
        elif (found := re.match(r"([0-9a-f]+) .*\s(nmb_\w+)$", line)) and tier in TIERS:
            owner[int(found[1], 16)] = (tier, found[2])
    code = subprocess.run(
        [objdump, "-d", "--no-show-raw-insn", _core.__file__], capture_output=True, text=True, check=True
    ).stdout
    functions: dict[tuple[str, str], list[Line]] = {}
    into: list[Line] | None = None
    for line in code.splitlines():
        if found := re.match(r"([0-9a-f]+) <", line):
            key = owner.get(int(found[1], 16))
            into = functions.setdefault(key, []) if key else None
        elif into is not None and (found := re.match(r"\s*([0-9a-f]+):\s+(\S.*)", line)):
            into.append(Line(int(found[1], 16), found[2]))
    return functions


@pytest.fixture(scope="module")
def functions() -> dict[tuple[str, str], list[Line]]:
    found = disassemble()
    if not found:
        pytest.skip("objdump is missing, or the module is stripped")
    return found


def loops(lines: list[Line]) -> list[list[Line]]:
    """Instructions from the target of each backward branch to the branch."""
    found = []
    for line in lines:
        if branch := re.match(r"(?:j\w+|b\.\w+|cbn?z\s+\w+,|b)\s+(?:0x)?([0-9a-f]+)", line.text):
            target = int(branch[1], 16)
            if lines[0].address <= target <= line.address:
                found.append([each for each in lines if target <= each.address <= line.address])
    return found


SUFFIX = {"avx512_bf16": "_dp", "avx512_vnni": "_vnni"}


def function_of(kernel: _core.Kernel) -> str:
    family = "stream_" if kernel.family == "stream" else ""
    return f"nmb_{family}{kernel.name}{SUFFIX.get(kernel.variant or '', '')}"


def product(kernel: _core.Kernel) -> re.Pattern[str]:
    """The multiplication that a kernel of this element type and variant is made of."""
    kind = kernel.name.rsplit("_", 1)[1]
    if kernel.variant in SUFFIX:
        return re.compile("vdpbf16ps" if kind == "bf16" else "vpdpbusd")
    if kernel.tier == "scalar":
        return re.compile("v?imul" if kind == "s8" else "mulss|mulsd")
    if kind == "s8":
        return re.compile("vpmaddwd|smull|sadalp|mul")
    letter = "d" if kind == "f64" else "s"
    return re.compile(rf"vfmadd\d+p{letter}|fmla")


MEMORY = [k for tier in kernels.tiers().values() for k in tier.kernels.values() if k.sliced]


@pytest.mark.parametrize("kernel", MEMORY, ids=lambda k: f"{k.tier}-{k.name}")
def test_instructions(kernel: _core.Kernel, functions: dict[tuple[str, str], list[Line]]) -> None:
    lines = functions[kernel.tier, function_of(kernel)]
    register = REGISTER[kernel.tier]
    stores = [line.text for line in lines if NT_STORE.match(line.text)]
    assert bool(stores) == kernel.nt
    if kernel.nt:
        assert all(register in store for store in stores)
        assert any(re.match(r"sfence|dmb", line.text) for line in lines)
    assert loops(lines)
    assert not [line.text for line in lines if re.search(r"mem(cpy|set|move)", line.text)]
    fma = [line.text for line in lines if FMA.match(line.text)]
    if kernel.family == "blas1":
        assert any(product(kernel).match(line.text) for loop in loops(lines) for line in loop)
    else:
        assert bool(fma) == (kernel.name.startswith("triad") and kernel.tier in {"avx2", "avx512", "neon"})
    if kernel.family == "stride" or (X86 and kernel.tier == "scalar"):
        assert not [line.text for line in lines if VECTOR.search(line.text)]
    elif X86:
        assert any(register in line.text for loop in loops(lines) for line in loop)


@pytest.mark.skipif(not X86, reason="reads x86-64 instructions")
@pytest.mark.parametrize("chains", range(1, IN_REGISTERS + 1))
@pytest.mark.parametrize("tier", TIERS)
def test_chase_is_straight_and_does_not_spill(
    tier: str, chains: int, functions: dict[tuple[str, str], list[Line]]
) -> None:
    turn = max(loops(functions[tier, f"nmb_chase_{chains}"]), key=len)
    loads = [line.text for line in turn if re.match(r"mov\s+(0x0)?\((%\w+)\),\2$", line.text)]
    stack = [line.text for line in turn if "(%rsp" in line.text]
    moves = [line.text for line in turn if re.match(r"v?movq\s+%", line.text)]
    assert len(loads) >= 128
    assert len(loads) % chains == 0
    assert len(stack) <= 2  # the turn's counter, once a turn; a spilled pointer would be there at each load
    assert bool(moves) == (chains in LONG_CHAINS)
    assert len(turn) <= len(loads) + len(moves) + len(stack) + 4


def innermost(lines: list[Line]) -> list[str]:
    return [line.text for line in min(loops(lines), key=len)]


@pytest.mark.skipif(not X86, reason="reads x86-64 instructions")
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("name", "locked"), [("flag", ""), ("cas", "lock cmpxchg"), ("add", "lock x?add"), ("queue", "")]
)
def test_hand_over_is_what_it_is_named_for(
    name: str, locked: str, tier: str, functions: dict[tuple[str, str], list[Line]]
) -> None:
    lines = [line.text for line in functions[tier, "nmb_queue" if name == "queue" else f"nmb_pingpong_{name}"]]
    found = [text for text in lines if text.startswith(("lock", "xchg")) and "%ax,%ax" not in text]
    assert bool(found) == bool(locked)
    assert all(re.match(locked, text) for text in found)
    assert not [text for text in lines if re.match(r"pause|[lms]fence|rep nop", text)]


@pytest.mark.skipif(not X86, reason="reads x86-64 instructions")
@pytest.mark.parametrize("tier", TIERS)
def test_waiting_is_a_load_in_a_loop(tier: str, functions: dict[tuple[str, str], list[Line]]) -> None:
    """The poll reads memory each time: an instruction of the loop has a memory operand."""
    for name in ("nmb_pingpong_flag", "nmb_pingpong_add", "nmb_queue"):
        turn = innermost(functions[tier, name])
        assert [text for text in turn if re.match(r"(mov|cmp)\s.*\(%\w+\)", text)], name
        assert len(turn) <= 5, name


@pytest.mark.skipif(not X86, reason="reads x86-64 instructions")
@pytest.mark.parametrize("tier", TIERS)
def test_delay_is_a_chain_of_additions(tier: str, functions: dict[tuple[str, str], list[Line]]) -> None:
    doubling = re.compile(r"addq?\s+(%\w+),\1$")
    for kernel in kernels.tiers()[tier].kernels.values():
        if kernel.family == "stream":
            lines = functions[tier, function_of(kernel)]
            registers = [match[1] if (match := doubling.match(line.text)) else "" for line in lines]
            rows = {len(list(row)) for register, row in itertools.groupby(registers) if register}
            assert max(rows, default=0) >= 64, kernel.name


@pytest.mark.skipif(not X86, reason="reads x86-64 instructions")
@pytest.mark.parametrize("tier", TIERS)
def test_gather_reads_rows_in_vectors(tier: str, functions: dict[tuple[str, str], list[Line]]) -> None:
    lines = functions[tier, "nmb_gather"]
    register = REGISTER[tier] or "%r"
    reads = [line.text for loop in loops(lines) for line in loop if re.match(r"v?p?addq?\s+.*\(%\w+\)", line.text)]
    assert reads
    assert all(register in text for text in reads)
    assert not [line.text for line in lines if re.match(r"vp?gather|v?movnt", line.text)]


@pytest.mark.parametrize(
    "kernel",
    [k for tier in kernels.tiers().values() for k in tier.kernels.values() if k.name.startswith("scatter")],
    ids=lambda k: f"{k.tier}-{k.name}",
)
def test_rows_are_written_as_their_name_says(
    kernel: _core.Kernel, functions: dict[tuple[str, str], list[Line]]
) -> None:
    """Past the caches and fenced, or plainly; whole vectors, no scatter instruction."""
    lines = [line.text for line in functions[kernel.tier, function_of(kernel)]]
    stores = [text for text in lines if NT_STORE.match(text)]
    assert bool(stores) == kernel.nt
    assert any(re.match(r"sfence|dmb", text) for text in lines) == kernel.nt
    assert all(REGISTER[kernel.tier] in text for text in stores)
    assert not [text for text in lines if re.match(r"vp?scatter", text) or re.search(r"mem(cpy|set|move)", text)]


COMPUTING = [
    kernel
    for _, _, usable, found in _core.tiers()
    for kernel in found
    if usable and kernel.family in ("gemm", "gemv", "blas1")
]


def parts(kernel: _core.Kernel, functions: dict[tuple[str, str], list[Line]]) -> dict[str, list[Line]]:
    """The functions in which a multiplication spends its time, by what they are for: height or shape of the tile."""
    tag = function_of(kernel).removeprefix(f"nmb_{kernel.family}_")
    found = re.compile(rf"nmb_{kernel.family}_(strip|sweep)_([\d_]+)_{tag}")
    named = {name: lines for (tier, name), lines in functions.items() if tier == kernel.tier}
    if kernel.family == "blas1":
        return {"all": named[function_of(kernel)]}
    mine = {match[2]: lines for name, lines in named.items() if (match := found.fullmatch(name)) and loops(lines)}
    assert mine, f"{kernel.tier} has no loops for {kernel.name}"
    return mine


@pytest.mark.skipif(not X86, reason="reads x86-64 instructions")
@pytest.mark.parametrize("kernel", COMPUTING, ids=lambda k: f"{k.tier}-{k.name}-{k.variant}")
def test_products_are_made_in_loops_by_the_tier_s_instruction(
    kernel: _core.Kernel, functions: dict[tuple[str, str], list[Line]]
) -> None:
    """Each height of tile has a loop with the multiplication, of the tier's registers, as often as rows and vectors."""
    wanted, register = product(kernel), REGISTER[kernel.tier]
    found = parts(kernel, functions)
    if kernel.family == "gemm":
        assert {int(height) for height in found} == set(range(1, kernel.shape[0] + 1))
    for name, lines in found.items():
        inside = [[line.text for line in loop if wanted.match(line.text)] for loop in loops(lines)]
        most = max(inside, key=len)
        assert most, f"{name}: no {wanted.pattern} in a loop"
        if kernel.tier != "scalar":
            assert all(register in text for text in most), name
        if kernel.family == "gemm":  # every row meets every vector of a row of B
            lanes = {"scalar": 8, "avx2": 32, "avx512": 64}[kernel.tier] // kernel.sizes[2]
            vectors = kernel.shape[1] // lanes if kernel.tier != "scalar" else kernel.shape[1]
            assert len(most) >= int(name) * vectors, name


# Where int8 is widened, products take a register before they are added: fewer rows that do without were no faster.
TILES = [
    kernel
    for tier in kernels.tiers().values()
    for kernel in tier.kernels.values()
    if kernel.family == "gemm" and tier.name != "scalar" and (kernel.name, kernel.variant) != ("gemm_s8", "widened")
]


@pytest.mark.skipif(not X86, reason="reads x86-64 instructions")
@pytest.mark.parametrize("kernel", TILES, ids=lambda k: f"{k.tier}-{k.name}-{k.variant}")
def test_tallest_tile_keeps_its_sums_in_registers(
    kernel: _core.Kernel, functions: dict[tuple[str, str], list[Line]]
) -> None:
    """No sum is stored between two multiplications of the innermost loop."""
    lines, wanted = parts(kernel, functions)[str(kernel.shape[0])], product(kernel)
    turn = max(loops(lines), key=lambda loop: sum(bool(wanted.match(line.text)) for line in loop) / len(loop))
    stored = re.compile(rf"vmov\w+\s+{REGISTER[kernel.tier]}\d+,.*\(%r[sb]p")
    assert not [line.text for line in turn if stored.match(line.text)]
