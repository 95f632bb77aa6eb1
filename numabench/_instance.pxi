# SPDX-License-Identifier: Apache-2.0
# Part of _core.pyx: a board of requests that processes share, and the model that serves them.

Request = namedtuple("Request", "scheduled sent start done server")
ANY_CPU = NMB_ANY_CPU


def monotonic_ns():
    """CLOCK_MONOTONIC, the same in every process of this machine, ns."""
    return nmb_monotonic_ns()


cdef class Board:
    """A queue of requests in a writable buffer that processes share (``Board.bytes`` long). Times are ns.

    ``clear`` empties it for so many requests; else it is taken as another process left it.
    """

    cdef nmb_board *c
    cdef Py_buffer view
    cdef bint held

    def __cinit__(self, buffer, clear=None):
        PyObject_GetBuffer(buffer, &self.view, PyBUF_WRITABLE)
        self.held = True
        self.c = <nmb_board *>self.view.buf
        if <uintptr_t>self.c % NMB_PAD or self.view.len < <Py_ssize_t>nmb_board_bytes(0):
            raise ValueError("a board starts at a multiple of 128 bytes")
        if clear is not None:
            if clear < 0 or clear >= 1 << 31 or self.view.len < <Py_ssize_t>nmb_board_bytes(clear):
                raise ValueError(f"{clear} requests do not fit {self.view.len} bytes")
            nmb_board_clear(self.c, clear)
        elif self.view.len < <Py_ssize_t>nmb_board_bytes(self.c.capacity):
            raise ValueError("the buffer is smaller than the board in it")

    def __dealloc__(self):
        self.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """Let go of the buffer. Closing twice is allowed."""
        if self.held:
            self.held = False
            self.c = NULL
            PyBuffer_Release(&self.view)

    @staticmethod
    def bytes(size_t capacity):
        """Bytes of a board for so many requests."""
        return nmb_board_bytes(capacity)

    cdef nmb_board *open(self) except NULL:
        if self.c == NULL:
            raise ValueError("board is closed")
        return self.c

    def schedule(self, times):
        """When each request is to be sent, ns from the origin, ascending."""
        cdef nmb_board *board = self.open()
        cdef list given = list(times)
        if len(given) > board.capacity:
            raise ValueError(f"{len(given)} requests on a board for {board.capacity}")
        for i, at in enumerate(given):
            board.requests[i].scheduled = at

    def send(self, size_t first, size_t to, int64_t origin):
        """Send requests [first, to) at their times, whether or not earlier ones are done. Keeps its CPU busy."""
        cdef nmb_board *board = self.open()
        cdef int rc
        with nogil:
            rc = nmb_board_send(board, first, to, origin, NULL)
        check(rc, f"send requests {first} to {to}")

    def end(self):
        """No more requests will come: instances finish what is there and stop."""
        nmb_board_close(self.open())

    @property
    def claimed(self):
        """Requests that an instance has taken."""
        cdef nmb_board *board = self.open()
        return min(board.claimed, board.capacity)

    def requests(self):
        """Those that were taken, in their order; ``done`` is 0 while one is being served."""
        cdef nmb_board *board = self.open()
        cdef nmb_request *r
        cdef list found = []
        for i in range(min(board.claimed, board.capacity)):
            r = &board.requests[i]
            found.append(Request(r.scheduled, r.sent, r.start, r.done, r.server))
        return found


cdef class Instance:
    """A model: a program of works for every thread, with None where all threads meet; the last entry is None.

    ``wait`` is how threads wait for each other, one of WAITS. Works hold their regions; the board must stay open.
    """

    cdef nmb_instance *c
    cdef readonly unsigned threads
    cdef readonly Board board
    cdef list regions

    def __cinit__(self, programs, str wait, Board board not None):
        cdef list given = [list(program) for program in programs]
        cdef size_t length = max([len(program) for program in given], default=0), at
        cdef nmb_work *works
        cdef Work work
        cdef int rc
        if wait not in WAITS:
            raise ValueError(f"wait {wait!r}: one of {', '.join(WAITS)}")
        if not given or any([not program or program[-1] is not None for program in given]):
            raise ValueError("every thread has a program that ends where all meet")
        if len({program.count(None) for program in given}) != 1:
            raise ValueError("all threads must meet equally often")
        self.threads, self.board, self.regions = len(given), board, []
        board.open()
        works = <nmb_work *>calloc(len(given) * length, sizeof(nmb_work))
        if works == NULL:
            raise MemoryError
        try:
            for thread, program in enumerate(given):
                for i, item in enumerate(program):
                    # Short programs end with the others: what is missing lies before the last meeting.
                    at = thread * length + (length - 1 if i == len(program) - 1 else i)
                    if item is None:
                        works[at].loops = 1
                        continue
                    work = item
                    if work.kernel is None or not work.c.loops or (work.kernel.collective and work.kernel.arrays != 2):
                        raise ValueError("a program has kernels with rounds; only an all-reduce waits for others")
                    works[at] = work.c
                    self.regions.extend(work.regions)
            rc = nmb_instance_create(works, self.threads, length, WAITS.index(wait), board.c, &self.c)
        finally:
            free(works)
        check(rc, f"instance of {self.threads} threads")
        self.regions = list({id(region): region for region in self.regions}.values())

    def __dealloc__(self):
        nmb_instance_destroy(self.c)

    def serve(self, Team team not None, int64_t origin, int64_t until=0, unsigned steps=1, uint64_t most=1 << 40,
              unsigned server=0, int64_t stall_at=-1, int64_t stall_ns=0, unsigned opening=0, unsigned duty=0,
              ranks=None):
        """Serve from ``origin`` on: what is sent to the board until it ends, or (``until``) a closed loop.

        Times are of ``monotonic_ns``. ``most``: requests at most. ``stall_ns`` holds up request ``stall_at``, a planted
        fault. ``opening``: so many meetings end the part of the program that only the first step of a request runs.
        ``duty``: percent of the time at work in a closed loop (0: all). ``ranks``: (region, rank, how many) of
        processes that serve one model together; they meet in that region, and the first claims the requests. Returns
        the team's stamps.
        """
        cdef nmb_serve how
        cdef Region meeting
        cdef Work work
        cdef list works = []
        self.board.open()
        if len(team) != self.threads or not steps or not most:
            raise ValueError(f"{self.threads} threads, at least one step and one request are needed")
        if opening >= nmb_instance_barriers(self.c) or duty > 100:
            raise ValueError("opening: fewer meetings than the program has; duty: at most 100 percent")
        memset(&how, 0, sizeof(how))
        how.origin, how.until, how.steps, how.server = origin, until, steps, server
        how.opening, how.duty = opening, duty
        how.stall_at, how.stall_ns = stall_at, stall_ns
        if ranks is not None:
            meeting, how.rank, how.rank_count = ranks
            if how.rank >= how.rank_count or meeting.bytes < sizeof(nmb_ranks):
                raise ValueError(f"rank {how.rank} of {how.rank_count} in a region of {meeting.bytes} bytes")
            how.ranks = <nmb_ranks *>nmb_region_base(meeting.open())
        nmb_instance_prepare(self.c, &how)
        for part in range(self.threads):
            work = Work(None)
            work.kernel = SERVE
            work.c.kernel, work.c.loops = &nmb_serve_kernel, most
            work.c.args.shared, work.c.args.part, work.c.args.parts = self.c, part, self.threads
            work.c.args.chains = 1
            work.regions = self.regions
            works.append(work)
        return team.run(works)

    @property
    def steps(self):
        """Steps of the last run, on all its requests."""
        return nmb_instance_steps(self.c)

    def op_ns(self, Clock clock not None):
        """ns that thread 0 spent up to each meeting, waiting included, over all steps of the last run."""
        cdef const uint64_t *ticks = nmb_instance_op_ticks(self.c)
        cdef size_t i, count = nmb_instance_barriers(self.c)
        return [ticks[i] * 1e9 / clock.c.hz for i in range(count)]

    def result(self, unsigned thread, size_t work):
        """What the last call of a thread's work (its place in the program) returned."""
        if thread >= self.threads:
            raise ValueError(f"thread {thread} of {self.threads}")
        return nmb_instance_result(self.c, thread, work)


cdef Kernel SERVE = wrap_kernel(&nmb_serve_kernel, "")
