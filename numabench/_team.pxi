# SPDX-License-Identifier: Apache-2.0
# Part of _core.pyx: what a thread is given to do, and the team that does it.

_MOST_EMPTY = 1 << 24  # rows without columns are walked all the same, and a run must end


cdef class Work:
    """One thread's share of a run: a kernel, where its arrays are, and how long.

    Arrays are (region, byte offset) pairs. ``loops`` 0 means until the window of the run ends; ``block`` is bytes of
    each array, or rounds, per call of the kernel (nmb.h). Everything is checked against the sizes of the regions
    here, since a kernel checks nothing.

    ``delay``: dependent additions after every four lines of a stream (``Clock.additions`` turns ns into them).
    gemm: ``layout`` of LAYOUTS says whether A lies as k x m, B as n x k; ``blocks`` (mc, kc, nc), 0 the kernel's own.
    mix: of ``m + n`` lines in turn ``m`` are read and ``n`` written; whole turns, from a line boundary on.
    gather: ``a`` is a table of ``bytes`` in rows of ``stride`` bytes, ``b`` the ``k`` uint32 row numbers to visit.
    contend, shared and sync: ``shared`` is where the lines or the barrier lie (256 bytes). shared and sync: ``part`` of
    ``parts``, ``wait`` of WAITS, ``ticks`` room for one uint64 a round (ticks of the team's clock at its end).
    allreduce_f32: the parts' vectors of ``bytes`` stand ``stride`` bytes apart, inputs from ``a``, results from ``b``
    on.
    """

    cdef nmb_work c
    cdef readonly Kernel kernel
    cdef list regions
    cdef readonly Ring ring

    def __cinit__(
        self, Kernel kernel, a=None, b=None, c=None, d=None, scratch=None, size_t bytes=0, size_t stride=0,
        double scalar=0, uint64_t delay=0, uint64_t seed=1, Ring ring=None, unsigned chains=0, unsigned part=0,
        unsigned parts=1, shared=None, str wait="spin", ticks=None, size_t m=0, size_t n=0, size_t k=0, size_t lda=0,
        size_t ldb=0, size_t ldc=0, double alpha=1, double beta=0, str layout="nn", blocks=(0, 0, 0),
        uint64_t loops=0, size_t block=0,
    ):
        cdef nmb_args *args = &self.c.args
        cdef size_t element, room, rows_a, across_a, rows_b, across_b
        memset(&self.c, 0, sizeof(self.c))
        self.kernel, self.regions, self.ring = kernel, [], ring
        if kernel is None:
            return
        element = kernel.element_bytes
        self.c.kernel, self.c.loops, self.c.block = kernel.c, loops, block
        args.bytes, args.stride, args.scalar, args.seed = bytes, stride, scalar, seed
        args.chains, args.part, args.parts, args.delay = chains, part, parts, delay
        if delay and kernel.family != "stream" and (kernel.name != "barrier" or ticks is None or delay >> 32):
            raise ValueError(f"kernel {kernel.name} takes no delay" + ", or needs ticks" * (kernel.name == "barrier"))
        args.m, args.n, args.k, args.lda, args.ldb, args.ldc = m, n, k, lda, ldb, ldc
        args.alpha, args.beta = alpha, beta
        if kernel.family in ("gemm", "gemv"):
            args.mc, args.kc, args.nc = blocks
            if layout not in LAYOUTS or (kernel.family == "gemv" and layout != "nn"):
                raise ValueError(f"layout {layout!r}: one of {', '.join(LAYOUTS)}, and nn only where B lies transposed")
            args.transposed = LAYOUTS.index(layout)
            rows_a, across_a = (k, m) if layout[0] == "t" else (m, k)
            rows_b, across_b = (n, k) if layout[1] == "t" or kernel.family == "gemv" else (k, n)
            if lda < across_a or ldb < across_b or ldc < n:
                raise ValueError("leading dimension smaller than the row")
            args.a = self.at(a, self.span(rows_a, across_a, lda, kernel.sizes[0]))
            args.b = self.at(b, self.span(rows_b, across_b, ldb, kernel.sizes[1]))
            args.c = self.at(c, self.span(m, n, ldc, kernel.sizes[2]))
            room = nmb_gemm_scratch(kernel.c, m, n, k, args.mc, args.kc, args.nc)
            args.scratch, args.scratch_bytes = self.at(scratch, room), room
        elif kernel.family == "peak":
            args.m, args.n = kernel.shape
        elif kernel.family == "chase":
            if ring is None or not 1 <= chains <= NMB_MAX_CHAINS or nmb_ring_start(ring.c, chains - 1) == NULL:
                raise ValueError(f"chase needs a ring of at least {chains} chains (1 to {NMB_MAX_CHAINS})")
            if not ring.proven:
                raise NumabenchError("the ring has not been proven to be one cycle per chain")
            self.regions.append(ring.region)
            for i in range(chains):
                args.cursor[i] = nmb_ring_start(ring.c, i)
            if ticks is not None:
                if chains > 1:
                    raise ValueError("loads are timed one by one on a single chain")
                args.ticks = <uint64_t *>self.at(ticks, NMB_BINS * sizeof(uint64_t))
                if <uintptr_t>args.ticks % sizeof(uint64_t):
                    raise ValueError("ticks start at a multiple of 8 bytes")
        elif kernel.family == "rows":
            if chains not in (1, 2, 4) or lda < n:
                raise ValueError(f"elements of {chains} bytes (1, 2 or 4) in rows of {n} of {lda}")
            args.a = self.at(a, self.span(m, n, lda, chains))
        elif kernel.family == "gather":
            self.set_gather(a, b, k)
        elif kernel.family == "contend":
            args.shared, args.chains = self.at(shared, NMB_PAD), 1
            if <uintptr_t>args.shared % NMB_PAD:
                raise ValueError(f"kernel {kernel.name}: the line starts at a multiple of {NMB_PAD} bytes")
        elif kernel.collective:
            self.set_collective(a, b, shared, wait, ticks)
        elif kernel.element_bytes == 0:  # a ring is made: ordered, linked, proven
            if ring is None or part >= parts:
                raise ValueError(f"kernel {kernel.name} works on a ring, as part {part} of {parts}")
            self.regions.append(ring.region)
            args.shared = ring.c
        else:
            if kernel.family == "stride" and (stride < element or stride % element or (block and block % stride)):
                raise ValueError(f"stride {stride} and block {block}: multiples of {element} and of the stride")
            if kernel.family != "stride" and stride:
                raise ValueError(f"kernel {kernel.name} takes no stride")
            if kernel.family == "mix":
                element = NMB_LINE * (m + n)
                if not 0 < m + n < <size_t>1 << 32 or max(m, n) >> 32:
                    raise ValueError(f"{m} lines read and {n} written in turn")
            if bytes % element or block % element:
                raise ValueError(f"{bytes} bytes in blocks of {block}: not whole elements of {element} bytes")
            args.a = self.at(a, bytes)
            if kernel.family == "mix" and <uintptr_t>args.a % NMB_LINE:
                raise ValueError(f"kernel {kernel.name} takes whole lines: its array starts with one")
            if kernel.arrays > 1:
                args.b = self.at(b, bytes)
            if kernel.arrays > 2:
                args.c = self.at(c, bytes)
            if kernel.arrays > 3:
                args.d = self.at(d, bytes)

    cdef set_gather(self, a, b, size_t count):
        cdef nmb_args *args = &self.c.args
        cdef const uint32_t *rows
        cdef size_t i, row = args.stride
        cdef uint32_t last = 0
        if row == 0 or row % self.kernel.element_bytes or args.bytes < row or not 0 < count < <size_t>1 << 48:
            raise ValueError(f"{count} rows of {row} bytes in a table of {args.bytes}: whole lines of "
                             f"{self.kernel.element_bytes} bytes, at least one row")
        args.a, args.b, args.k = self.at(a, args.bytes), self.at(b, count * sizeof(uint32_t)), count
        if <uintptr_t>args.a % sizeof(uint64_t) or <uintptr_t>args.b % sizeof(uint32_t):
            raise ValueError("a table starts at a multiple of 8 bytes, its row numbers at one of 4")
        if self.kernel.nt and <uintptr_t>args.a % self.kernel.element_bytes:
            raise ValueError(f"kernel {self.kernel.name} writes whole lines: its table starts with one")
        rows = <const uint32_t *>args.b
        with nogil:
            for i in range(count):
                last = max(last, rows[i])
        if last >= args.bytes // row:
            raise ValueError(f"row {last} of a table of {args.bytes // row} rows")
        args.chains, args.cursor[0] = row // self.kernel.element_bytes, args.b

    cdef set_collective(self, a, b, shared, str wait, ticks):
        cdef nmb_args *args = &self.c.args
        cdef size_t element = self.kernel.element_bytes
        if wait not in WAITS:
            raise ValueError(f"wait {wait!r}: one of {', '.join(WAITS)}")
        if (
            not 0 < self.c.loops < <uint64_t>1 << 48 or args.part >= args.parts
            or (self.kernel.family == "shared" and args.parts != 2)
        ):
            raise ValueError(f"kernel {self.kernel.name}: rounds, and part {args.part} of {args.parts}, are needed")
        args.wait, args.chains = WAITS.index(wait), 1
        args.shared = self.at(shared, 2 * NMB_PAD)
        if <uintptr_t>args.shared % NMB_PAD:
            raise ValueError(f"kernel {self.kernel.name}: the shared lines start at a multiple of {NMB_PAD} bytes")
        if ticks is not None:
            args.ticks = <uint64_t *>self.at(ticks, (2 if args.delay else 1) * self.c.loops * sizeof(uint64_t))
            if <uintptr_t>args.ticks % sizeof(uint64_t):
                raise ValueError("ticks start at a multiple of 8 bytes")
        if self.kernel.arrays and (not args.bytes or args.bytes % element):
            raise ValueError(f"{args.bytes} bytes: not whole elements of {element} bytes")
        if self.kernel.arrays == 1:
            args.a = self.at(a, args.bytes)
        elif self.kernel.arrays == 2:
            if args.stride < args.bytes or args.stride % element or args.stride >> 32:
                raise ValueError(f"vectors of {args.bytes} bytes do not fit a distance of {args.stride}")
            args.a = self.at(a, (args.parts - 1) * args.stride + args.bytes)
            args.b = self.at(b, (args.parts - 1) * args.stride + args.bytes)

    cdef size_t span(self, rows, columns, leading, element) except? 0:
        """Bytes from the first to the last element. Numbers of Python, which do not wrap, up to the last moment."""
        if rows == 0 or columns == 0:
            if max(rows, columns) > _MOST_EMPTY:
                raise ValueError(f"{rows} rows of {columns} elements: at most {_MOST_EMPTY} where there is none")
            return 0
        bytes = ((rows - 1) * leading + columns) * element
        if bytes >> 63:
            raise ValueError(f"{rows} rows, {leading} elements apart, end beyond any memory")
        return bytes

    cdef void *at(self, place, size_t bytes) except? NULL:
        cdef Region region
        cdef size_t offset
        if place is None:
            raise ValueError(f"kernel {self.kernel.name}: an array is missing")
        region, offset = place
        if offset > region.bytes or bytes > region.bytes - offset:
            raise ValueError(f"{bytes} bytes at {offset} lie outside a region of {region.bytes} bytes")
        self.regions.append(region)
        return <char *>nmb_region_base(region.open()) + offset


cdef check_parts(list works):
    """Whether everyone is there whom the others wait for: else the run would not end."""
    cdef Work work
    together = {}
    for work in works:
        if work is not None and work.kernel is not None and work.kernel.collective:
            key = <uintptr_t>work.c.args.shared
            together.setdefault(key, []).append((work.kernel.name, work.c.loops, work.c.args.parts, work.c.args.part))
    for found in together.values():
        name, loops, parts, _ = found[0]
        if sorted(found) != [(name, loops, parts, part) for part in range(parts)]:
            raise ValueError(f"kernel {name}: all {parts} parts with the same lines and rounds must run together")


cdef class Team:
    """Threads pinned one per entry of ``cpus`` that wait for work; every pin is read back when the team is made.

    ANY_CPU is a thread that roams where the process may run.
    """

    cdef nmb_team *c
    cdef readonly Clock clock
    cdef readonly tuple cpus
    cdef bint running

    def __cinit__(self, cpus, Clock clock=None):
        cdef int *numbers
        cdef size_t count
        cdef int rc
        self.cpus, self.clock = tuple(cpus), clock if clock is not None else Clock()
        count = len(self.cpus)
        if count == 0:
            raise ValueError("a team needs at least one CPU")
        numbers = <int *>calloc(count, sizeof(int))
        if numbers == NULL:
            raise MemoryError
        try:
            for i, cpu in enumerate(self.cpus):
                numbers[i] = cpu
            with nogil:
                rc = nmb_team_create(&self.clock.c, numbers, count, &self.c)
        finally:
            free(numbers)
        check(rc, f"pin threads to CPUs {list(self.cpus)}", PlacementError)

    def __dealloc__(self):
        if self.c != NULL:
            with nogil:
                nmb_team_destroy(self.c)

    def __del__(self):
        if self.c != NULL:
            warnings.warn(f"unclosed team of {len(self.cpus)} threads", ResourceWarning, source=self)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __len__(self):
        return len(self.cpus)

    def close(self):
        """End the threads. Closing twice is allowed."""
        cdef nmb_team *team = self.c
        if self.running:
            raise BufferError("the team is running")
        self.c = NULL
        with nogil:
            nmb_team_destroy(team)

    def run(self, works, double window_ns=0, bint core_hz=False):
        """Run works[i] on thread i (None: that thread sits out) from a common start; returns a Stamp or None for each.

        ``window_ns`` is the common window for works without loops, ns. Ctrl-C ends the run at its next block.
        Raises NumabenchError when a thread reports an error, KeyboardInterrupt when interrupted.
        """
        cdef nmb_team *team = self.c
        cdef list given = list(works)
        cdef nmb_work *c_works
        cdef Work work
        cdef Region region
        cdef uint64_t window = <uint64_t>(window_ns * self.clock.c.hz / 1e9)
        cdef unsigned flags = NMB_RUN_CORE_HZ if core_hz else 0
        cdef int rc
        if team == NULL or self.running:
            raise ValueError("team is closed" if team == NULL else "the team is running")
        if len(given) != len(self.cpus):
            raise ValueError(f"{len(given)} works for a team of {len(self.cpus)}")
        check_parts(given)
        held = [region for work in given if work is not None for region in work.regions]
        for region in held:
            region.open()
        c_works = <nmb_work *>calloc(len(given), sizeof(nmb_work))
        if c_works == NULL:
            raise MemoryError
        for i, item in enumerate(given):
            if item is not None:
                work = item
                c_works[i] = work.c
                if work.kernel.family == "sync":
                    (<nmb_barrier *>work.c.args.shared).arrived = 0  # a run that was cancelled may have left some
        for region in held:
            region.views += 1
        self.running = True
        interrupt = None
        try:
            check(nmb_team_start(team, c_works, window, flags), "start of a run")
            while True:
                with nogil:
                    rc = nmb_team_wait(team, POLL_MS)
                if rc != -ETIMEDOUT:
                    break
                try:
                    PyErr_CheckSignals()
                except BaseException as error:  # ends the run first, then goes on its way
                    interrupt = error
                    nmb_team_cancel(team)
            for i, item in enumerate(given):
                if item is not None:
                    work = item
                    work.c = c_works[i]  # chains go on where they stopped
        finally:
            self.running = False
            for region in held:
                region.views -= 1
            free(c_works)
        if interrupt is not None:
            raise interrupt
        return self.stamps(given)

    def fork_join(self, unsigned runs):
        """Times of so many runs of nothing, ns: all threads are told, and the caller waits until all have answered."""
        cdef nmb_team *team = self.c
        cdef nmb_work *nothing
        cdef uint64_t begin, end
        cdef unsigned run
        cdef int rc = 0
        cdef list took = []
        if team == NULL or self.running:
            raise ValueError("team is closed" if team == NULL else "the team is running")
        nothing = <nmb_work *>calloc(len(self.cpus), sizeof(nmb_work))
        if nothing == NULL:
            raise MemoryError
        for run in range(runs):
            with nogil:
                begin = nmb_clock_now(&self.clock.c)
                rc = nmb_team_start(team, nothing, 0, 0)
                while rc == 0 and nmb_team_wait(team, POLL_MS) != 0:
                    pass
                end = nmb_clock_now(&self.clock.c)
            if rc:
                break
            took.append((end - begin) * 1e9 / self.clock.c.hz)
        free(nothing)
        check(rc, "start of a run")
        return took

    cdef list stamps(self, list given):
        cdef const nmb_stamp *found = nmb_team_stamps(self.c)
        cdef double scale = 1e9 / self.clock.c.hz
        cdef uint64_t origin = 0
        cdef const nmb_stamp *s
        cdef list result = []
        started = [found[i].start for i in range(len(given)) if given[i] is not None]
        if started:
            origin = min(started)
        for i, item in enumerate(given):
            s = &found[i]
            if item is None:
                result.append(None)
                continue
            check(s.error, f"{item.kernel.name} on CPU {self.cpus[i]}", PlacementError)
            result.append(
                Stamp(
                    self.cpus[i], (s.start - origin) * scale, (s.end - origin) * scale, s.elements, s.calls,
                    s.sink, s.core_hz_before, s.core_hz_after, s.width_before, s.width_after,
                    s.voluntary_switches, s.involuntary_switches, s.minor_faults, s.cpu_start, s.cpu_end,
                    "+".join([name for bit, name in enumerate(TIERS) if s.ran >> bit & 1]),
                )
            )
        return result
