# SPDX-License-Identifier: Apache-2.0
"""A model in memory: weights cut over the threads, placed as asked, and the program that every thread runs.

Outputs are cut by columns in units of 64, and each is summed by one thread in a fixed order: the checksum does not
depend on the placement or on how many threads there are.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack

from numabench import _core, kernels
from numabench.errors import PlacementError, Unsupported, UsageError
from numabench.instance.exchange import Exchange, Place, exchange_bytes
from numabench.instance.fill import fill
from numabench.instance.spec import (
    GATHER_STEPS,
    MEAN,
    PAGE,
    PART,
    UNIT,
    WEIGHTS,
    Fields,
    Slice,
    Spec,
    some_columns,
)
from numabench.machine import Machine
from numabench.memory import Buffer
from numabench.presets import BYTES, ROW_BYTES, Op, cuts


class Built:
    """The memory and the programs of an instance. A context manager."""

    def __init__(self, spec: Spec, machine: Machine, clock: _core.Clock, board: _core.Board) -> None:
        if spec.weights not in WEIGHTS:
            raise UsageError(f"weights {spec.weights!r}: allowed are {', '.join(WEIGHTS)}")
        if spec.ranks > 1 and (not spec.model.summed or spec.model.dtype == "int8"):
            raise UsageError(f"{spec.model.preset} in {spec.model.dtype}: not cut into ranks")
        self.spec, self.machine, self.clock = spec, machine, clock
        self.threads = len(spec.cpus)
        self.how = "bind"
        self.instance: _core.Instance | None = None
        self.stack = ExitStack()
        try:
            self.team = self.stack.enter_context(_core.Team(spec.cpus, clock))
            self.loaders = (
                self.team if spec.loader == "workers" else self.stack.enter_context(_core.Team(spec.cpus[:1], clock))
            )
            self._build(board)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Built:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back."""
        self.instance = None
        self.stack.close()

    # ---- memory --------------------------------------------------------------------------------------------------

    def _region(self, size: int, policy: str, thread: int, offset: int = 0) -> _core.Region:
        """A region of a policy; where mbind is refused, pages go where they are touched."""
        nodes, kind, pages, fd = self.spec.nodes, "bind", self.spec.pages, 0
        if policy in ("interleave", "weighted"):
            kind = policy
        elif policy == "replicate":
            own = self.machine.cpu(self.spec.cpus[thread]).node if self.spec.cpus[thread] >= 0 else None
            nodes, kind = ((), "local") if own is None else ((own,), "bind")
        elif policy in ("shared", "file"):
            fd, pages, kind = self.spec.fd, "any", "bind" if policy == "shared" else "local"
        elif policy == "first-touch":
            kind = "local"
        if kind == "local":
            nodes = ()
        # Nothing may stay untouched: neither of a shared mapping nor of base pages, which are asked for one by one.
        unit = PAGE if fd or pages == "base" else PART
        size = -(-max(size, PAGE) // unit) * unit
        try:
            region = _core.Region(size, pages, kind, nodes, fd=fd, offset=offset)
        except (PlacementError, Unsupported) as error:
            if error.errno not in (errno.EPERM, errno.ENOSYS):
                raise
            self.how = "first_touch"
            region = _core.Region(size, pages, "local", fd=fd, offset=offset)
        return self.stack.enter_context(region)

    def _build(self, board: _core.Board) -> None:
        spec, model = self.spec, self.spec.model
        self.plan, sizes = self._slices()
        offsets = [sum(-(-max(s, PAGE) // PAGE) * PAGE for s in sizes[:t]) for t in range(self.threads)]
        self.weights = [
            self._region(sizes[t], spec.weights, t, offsets[t] if spec.fd else 0) for t in range(self.threads)
        ]
        kv = spec.kv or (spec.weights if spec.weights not in ("shared", "file") else "private")
        reads = [op for op in model.ops if op.kind == "read"]
        parts = [cuts(op.bytes, self.threads, PAGE) for op in reads]
        kv_size = [model.layers * sum(c[t][1] - c[t][0] for c in parts) for t in range(self.threads)]
        self.kv = [self._region(kv_size[t], kv, t) for t in range(self.threads)] if reads else []
        table = spec.weights if spec.weights not in ("shared", "file") else "private"
        self.table = [self._region(model.table_bytes, table, 0)] if model.table_bytes else []
        self._activations()
        self._exchange()
        fill(self, self.plan)
        self.instance = _core.Instance(self._programs(self.plan), spec.wait, board)

    @property
    def openings(self) -> int:
        """Meetings of the threads that end the opening."""
        opening = self.spec.model.opening
        return self.spec.model.layers * (len(opening) + sum(op in self.sums for op in opening))

    def _order(self) -> Iterator[tuple[int, Op]]:
        """Layer and operation in the order they run: all layers of the opening, then all of a step."""
        model = self.spec.model
        for ops in (model.opening, model.ops):
            for layer in range(model.layers):
                for op in ops:
                    yield layer, op

    def _slices(self) -> tuple[list[list[Slice]], list[int]]:
        """Every thread's parts of the weights, and the bytes they take."""
        model = self.spec.model
        plan: list[list[Slice]] = []
        sizes: list[int] = []
        for t in range(self.threads):
            mine: list[Slice] = []
            at = 0
            for layer, op in self._order():
                if op.kind == "gemm":
                    first, last = cuts(op.n, self.threads, UNIT)[t]
                    mine.append(Slice(op, layer, first, last, at))
                    at += -(-(last - first) * op.k * model.item_bytes(op) // PAGE) * PAGE + UNIT * (len(mine) % 7)
                elif op.kind == "own":
                    mine.append(Slice(op, layer, 0, op.n, at))
                    at += 3 * (-(-op.n * op.n * 4 // PAGE) * PAGE + UNIT)
            plan.append(mine)
            sizes.append(at)
        return plan, sizes

    def _activations(self) -> None:
        """Inputs and outputs of the operations, shared, on the first node; scratch on each thread's own."""
        spec, model = self.spec, self.spec.model
        place: dict[tuple[Op, str], int] = {}
        at = 0
        for op in model.every_op:
            if op.kind == "gemm":
                place[op, "in"] = at
                at += op.m * op.k * 4 + PAGE + UNIT
                at = -(-at // UNIT) * UNIT
            if op.kind in ("gemm", "heads"):
                place[op, "out"] = at
                width = op.n if op.kind == "gemm" else op.times * op.k // 2
                at += op.m * width * 4 + PAGE + 3 * UNIT
                at = -(-at // UNIT) * UNIT
        bind = spec.weights != "first-touch" and bool(spec.nodes) and self.how == "bind"
        pages = spec.pages if spec.pages in ("base", "thp") else "base"
        nodes = spec.nodes[:1] if bind else ()
        region = _core.Region(max(at, PAGE), pages, "bind" if bind else "local", nodes)
        self.activations = self.stack.enter_context(region)
        self.place = {key: (region, offset) for key, offset in place.items()}
        self.scratch = []
        need = max([self._scratch(op) for op in model.every_op], default=0) + PAGE
        for _ in range(self.threads):
            self.scratch.append(self.stack.enter_context(_core.Region(need, "thp", "local")))

    def _exchange(self) -> None:
        """Of ranks, the outputs that are summed move to where all of them add up."""
        spec = self.spec
        self.ranks: tuple[_core.Region, int, int] | None = None
        self.exchange: Exchange | None = None
        if spec.ranks > 1:
            size = exchange_bytes(spec.model, spec.ranks, self.threads)
            region = self.stack.enter_context(_core.Region(size, "any", "local", fd=spec.exchange))
            self.ranks, self.exchange = (region, spec.rank, spec.ranks), Exchange(spec, self.threads, region)
            self.place |= {(op, "out"): place for op, place in self.exchange.parts.items()}
        self.sums = self.exchange.sums if self.exchange else {}

    def _scratch(self, op: Op) -> int:
        """Bytes that one thread needs beside its weights: packing buffers, scores of a head."""
        if op.kind == "gemm":
            width = max(last - first for first, last in cuts(op.n, self.threads, UNIT))
            return self._kernel(op).gemm_scratch(op.m, max(width, 1), op.k)
        if op.kind == "heads":
            gemm = kernels.kernel("gemm_f32", self.spec.tier)
            return op.m * op.n * 4 + UNIT + gemm.gemm_scratch(op.m, max(op.n, op.k), max(op.n, op.k))
        if op.kind == "own":
            return kernels.kernel("gemm_f32", self.spec.tier).gemm_scratch(op.n, op.n, op.n)
        return 0

    def skinny(self, op: Op) -> bool:
        """Whether an operation has few rows: weights are then kept output by output."""
        model = self.spec.model
        return model.preset == "llm-decode" and op.kind == "gemm" and op not in model.opening

    def _kernel(self, op: Op) -> _core.Kernel:
        name = {"f32": "gemv_f32", "bf16": "gemv_bf16", "int8": "gemv_s8"}[self.spec.model.dtype]
        return kernels.kernel(name if self.skinny(op) else "gemm_f32", self.spec.tier)

    # ---- programs ------------------------------------------------------------------------------------------------

    def _programs(self, plan: list[list[Slice]]) -> list[list[_core.Work | None]]:
        """Layer by layer, operation by operation, a meeting of all threads after each."""
        programs: list[list[_core.Work | None]] = [[] for _ in range(self.threads)]
        self.kinds: list[list[tuple[int, str]]] = [[] for _ in range(self.threads)]  # places of reads and gathers
        taken, read = [0] * self.threads, [0] * self.threads
        before: Op | None = None
        for _, op in self._order():
            for t in range(self.threads):
                if op.kind in ("gemm", "own"):
                    part = plan[t][taken[t]]
                    taken[t] += 1
                    programs[t].extend(self._gemm(op, part, t, before) if op.kind == "gemm" else self._own(part, t))
                elif op.kind == "read":
                    first, last = cuts(op.bytes, self.threads, PAGE)[t]
                    if last > first:
                        at = (self.kv[t], read[t])
                        kernel = kernels.kernel("write" if op.name == "write" else "read", self.spec.tier)
                        self.kinds[t].append((len(programs[t]), "read"))
                        programs[t].append(_core.Work(kernel, a=at, bytes=last - first, loops=1))
                    read[t] += last - first
                elif op.kind == "gather":
                    self.kinds[t].append((len(programs[t]), "gather"))
                    programs[t].append(self.gather(op, t))
                else:
                    programs[t].extend(self._heads(op, t, before))
                programs[t].append(None)
                if self.exchange and op in self.sums:
                    work = self.exchange.work(op, t)
                    programs[t].extend([*([work] if work else []), None])
            if op.kind in ("gemm", "heads"):
                before = op
        return programs

    def _input(self, op: Op, before: Op | None) -> tuple[Place, int]:
        """Where an operation reads, and how long a row is there: the output before it if that has the shape."""
        if before is not None and self.spec.model.dtype != "int8":
            width = before.n if before.kind == "gemm" else before.times * before.k // 2
            if before.m == op.m and width >= op.k:
                return self.sums.get(before, self.place[before, "out"]), width
        return self.place[op, "in"], op.k

    def _gemm(self, op: Op, part: Slice, t: int, before: Op | None) -> list[_core.Work]:
        width = part.last - part.first
        if not width:
            return []
        at, lda = self._input(op, before)
        fields: Fields = {"a": at, "b": (self.weights[t], part.offset), "c": self._columns(op, part.first)}
        shape: Fields = {"lda": lda, "ldb": op.k if self.skinny(op) else width, "ldc": op.n}
        scratch = (self.scratch[t], 0)
        return [_core.Work(self._kernel(op), **fields, scratch=scratch, m=op.m, n=width, k=op.k, **shape, loops=1)]

    def _columns(self, op: Op, first: int) -> Place:
        """Where an operation writes its outputs from a column on."""
        region, at = self.place[op, "out"]
        return region, at + first * 4

    def _own(self, part: Slice, t: int, loops: int | None = None) -> list[_core.Work]:
        n = part.op.n
        apart = -(-n * n * 4 // PAGE) * PAGE + UNIT
        a, b, c = ((self.weights[t], part.offset + i * apart) for i in range(3))
        kernel = kernels.kernel("gemm_f32", self.spec.tier)
        shape: Fields = {"m": n, "n": n, "k": n, "lda": n, "ldb": n, "ldc": n}
        return [
            _core.Work(
                kernel,
                a=a,
                b=b,
                c=c,
                scratch=(self.scratch[t], 0),
                **shape,
                loops=part.op.times if loops is None else loops,
                block=1,
            )
        ]

    def _heads(self, op: Op, t: int, before: Op | None, loops: int = 1) -> list[_core.Work]:
        """Scores = queries x keys, output = scores x values, head by head, all from the projection before.

        Keys are read as they lie, not transposed: the same bytes and multiplications, another meaning.
        """
        if before is None:
            return []
        kernel, half, works = kernels.kernel("gemm_f32", self.spec.tier), op.k // 2, []
        source, width = self.place[before, "out"][1], before.n
        out, lead = self.place[op, "out"][1], op.times * half
        scores = (self.scratch[t], 0)
        pack = (self.scratch[t], -(-op.m * op.n * 4 // UNIT) * UNIT)
        first, last = cuts(op.times, self.threads, 1)[t]
        for head in range(first, last):
            query, key = source + head * half * 4, source + (width - op.n) * 4
            works.append(
                _core.Work(
                    kernel, a=(self.activations, query), b=(self.activations, key), c=scores, scratch=pack, m=op.m,
                    n=op.n, k=half, lda=width, ldb=width, ldc=op.n, alpha=1 / (MEAN * half), loops=loops, block=1,
                )
            )  # fmt: skip
            value = source + (width - half) * 4
            works.append(
                _core.Work(
                    kernel, a=scores, b=(self.activations, value), c=(self.activations, out + head * half * 4),
                    scratch=pack, m=op.m, n=half, k=op.n, lda=op.n, ldb=width, ldc=lead, alpha=1 / (MEAN * op.n),
                    loops=1,
                )
            )  # fmt: skip
        return works

    def gather(self, op: Op, t: int, loops: int | None = None) -> _core.Work:
        """This thread's share of each step's rows; the rows of a step are the same however they are shared out."""
        import numpy as np

        rows = self.table[0].bytes // ROW_BYTES
        first, last = cuts(op.times, self.threads, 1)[t]
        drawn = np.random.default_rng(17).integers(0, rows, size=(GATHER_STEPS, op.times), dtype=np.uint32)
        mine = np.ascontiguousarray(drawn[:, first:last]).ravel()
        index = self.stack.enter_context(_core.Region(mine.nbytes, "base", "local"))
        with memoryview(index) as view:
            view[: mine.nbytes] = mine.tobytes()
        kernel = kernels.kernel("gather", self.spec.tier)
        return _core.Work(
            kernel, a=(self.table[0], 0), b=(index, 0), k=mine.size, bytes=self.table[0].bytes,
            stride=ROW_BYTES, loops=last - first if loops is None else loops, block=last - first,
        )  # fmt: skip

    def small(self, op: Op, t: int) -> _core.Work | None:
        """A little of an operation, over and over: its rate when nothing comes from memory. None: no part of it."""
        part = next((part for part in self.plan[t] if part.op == op), None)
        shape: Fields
        if op.kind == "heads":
            work = self._heads(op, t, self.spec.model.ops[0], loops=0)
            return work[0] if work else None
        if part is None or part.last == part.first:
            return None
        if op.kind == "own":
            return self._own(part, t, loops=0)[0]
        size = BYTES[self.spec.model.dtype]
        n = some_columns(op.k * size, part.last - part.first)
        shape = {"m": op.m, "n": n, "k": op.k, "lda": op.k, "ldc": op.n, "block": 1}
        a, c = self.place[op, "in"], self._columns(op, part.first)
        b = (self.weights[t], part.offset)
        ldb = op.k if self.skinny(op) else n
        return _core.Work(self._kernel(op), a=a, b=b, c=c, scratch=(self.scratch[t], 0), ldb=ldb, **shape)

    # ---- evidence ------------------------------------------------------------------------------------------------

    def buffers(self) -> list[Buffer]:
        """The regions that hold weights, keys and values, tables, with the nodes they should be on."""
        found = []
        for kind, regions in (("weights", self.weights), ("kv", self.kv), ("table", self.table)):
            for t, region in enumerate(regions):
                nodes = region.nodes or (self._touched(t) if kind != "table" else self._touched(0))
                found.append(Buffer(region, tuple(nodes), self.how if region.nodes else "first_touch"))
        return found

    def _touched(self, t: int) -> tuple[int, ...]:
        """Nodes on which first touch should have put a thread's part; all for threads that roam."""
        cpu = self.spec.cpus[0 if self.spec.loader == "main" else t]
        node = self.machine.cpu(cpu).node if cpu >= 0 else None
        return (node,) if node is not None else tuple(n.id for n in self.machine.nodes)

    def outputs(self) -> str:
        """Digest of all outputs, the same after every step; of ranks the sums, which all of them have."""
        digest = hashlib.blake2b(digest_size=8)
        for op in self.spec.model.every_op if self.spec.ranks == 1 else self.sums:
            if op.kind in ("gemm", "heads"):
                region, at = self.sums.get(op, self.place[op, "out"])
                width = op.n if op.kind == "gemm" else op.times * op.k // 2
                with memoryview(region) as whole, whole[at : at + op.m * width * 4] as part:
                    digest.update(part)
        return digest.hexdigest()

    def checksum(self) -> str:
        """Digest of all outputs, of the rows gathered and the bytes read in the first step."""
        return hashlib.blake2b(f"{self.outputs()} {self._results()}".encode(), digest_size=8).hexdigest()

    def _results(self) -> tuple[int, int]:
        """What reads and gathers returned: XOR of all words, sum of all words; equal for any cut."""
        xor, total = 0, 0
        for thread in range(self.threads):
            for work, kind in self.kinds[thread]:
                value = self.instance.result(thread, work) if self.instance else 0
                xor, total = (xor ^ value, total) if kind == "read" else (xor, (total + value) % 2**64)
        return xor, total
