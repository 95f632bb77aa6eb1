/* SPDX-License-Identifier: Apache-2.0 */
/* Part of core_selftest.c: rows by their place, boards, instances that serve. */

enum { REQUESTS = 64, ROUND_NS = 200000 };

/* Any cut of a matrix holds the same values as the whole. */
static void test_rows(void)
{
    enum { ROWS = 37, COLUMNS = 61 };
    const nmb_kernel *fill = nmb_setup_kernel("fill_rows");
    static char whole[ROWS * COLUMNS * 4], part[ROWS * COLUMNS * 4];
    int same = 1, differ = 0;
    check(fill && (fill->flags & NMB_SETUP), "rows: kernel");
    for (unsigned size = 1; size <= 4; size *= 2) {
        nmb_args args = {.a = whole, .m = ROWS, .n = COLUMNS, .lda = COLUMNS, .chains = size, .seed = 9, .scalar = 1};
        same &= fill->fn(&args, 1) == 0;
        for (unsigned r = 0; r < ROWS; r += 5)
            for (unsigned c = 0; c < COLUMNS; c += 7) {
                unsigned m = ROWS - r < 5 ? ROWS - r : 5, n = COLUMNS - c < 7 ? COLUMNS - c : 7;
                nmb_args cut = {.a = part, .m = m, .n = n, .lda = n, .ldb = r, .k = c, .chains = size};
                cut.seed = 9;
                cut.scalar = 1;
                fill->fn(&cut, 1);
                for (unsigned i = 0; i < m; i++)
                    same &= !memcmp(part + i * n * size, whole + ((r + i) * COLUMNS + c) * size, n * size);
            }
        differ += memcmp(whole, whole + COLUMNS * size, COLUMNS * size) != 0;
        args.seed = 10;
        args.a = part;
        fill->fn(&args, 1);
        differ += memcmp(whole, part, ROWS * COLUMNS * size) != 0;
    }
    check(same, "rows: cuts hold what the whole holds");
    check(differ == 6, "rows: rows and seeds differ");
    float f[8];
    nmb_args args = {.a = f, .m = 1, .n = 8, .lda = 8, .chains = 4, .seed = 1, .scalar = 0.25};
    fill->fn(&args, 1);
    int right = 1;
    for (int i = 0; i < 8; i++)
        right &= f[i] >= 0.125f && f[i] < 0.25f;
    check(right, "rows: values in [0.5, 1) times the scale");
}

static nmb_board *new_board(size_t capacity)
{
    size_t bytes = (nmb_board_bytes(capacity) + NMB_PAD - 1) / NMB_PAD * NMB_PAD;
    nmb_board *board = aligned_alloc(NMB_PAD, bytes);
    nmb_board_clear(board, capacity);
    return board;
}

static void test_sending(void)
{
    nmb_board *board = new_board(REQUESTS);
    int stop = 0;
    for (int i = 0; i < REQUESTS; i++)
        board->requests[i].scheduled = (int64_t)i * ROUND_NS;
    int64_t origin = nmb_monotonic_ns() + ROUND_NS;
    check(nmb_board_send(board, 0, REQUESTS + 1, origin, NULL) == -EINVAL, "board: more than there is room for");
    check(nmb_board_send(board, 3, 2, origin, NULL) == -EINVAL, "board: backwards");
    int rc = nmb_board_send(board, 0, REQUESTS, origin, &stop), right = 1;
    for (int i = 0; i < REQUESTS; i++)
        right &= board->requests[i].sent >= board->requests[i].scheduled;
    check(rc == 0 && right && board->published == REQUESTS, "board: no request is sent before its time");
    stop = 1;
    check(nmb_board_send(board, 0, 1, nmb_monotonic_ns() + INT64_C(3600000000000), &stop) == -ECANCELED,
          "board: sending can be ended");
    nmb_board_close(board);
    check(board->closed == 1, "board: closed");
    free(board);
}

static uint64_t calls[MAX_THREADS];
static uint64_t count_calls(nmb_args *args, uint64_t loops)
{
    calls[args->part] += loops;
    return calls[args->part];
}
static const nmb_kernel counting = {.name = "counting", .fn = count_calls, .flags = NMB_COUNTED};

static nmb_instance *instance;

static int serve_with(const nmb_serve *how, uint64_t most)
{
    for (unsigned i = 0; i < threads; i++) {
        works[i] = (nmb_work){.kernel = &nmb_serve_kernel, .loops = most};
        works[i].args = (nmb_args){.shared = instance, .part = i, .parts = threads, .chains = 1};
        calls[i] = 0;
    }
    nmb_instance_prepare(instance, how);
    return run_all(0, 0);
}

static int all_called(uint64_t times)
{
    int right = 1;
    for (unsigned i = 0; i < threads; i++)
        right &= calls[i] == times;
    return right;
}

static void test_serving(int wait)
{
    enum { LENGTH = 4 };
    nmb_board *board = new_board(REQUESTS);
    nmb_work program[MAX_THREADS * LENGTH];
    memset(program, 0, sizeof program);
    for (unsigned i = 0; i < threads; i++) { /* two calls, meet, nothing, meet */
        program[i * LENGTH] = (nmb_work){.kernel = &counting, .loops = 2, .args = {.part = i}};
        program[i * LENGTH + 1].loops = program[i * LENGTH + 3].loops = 1;
    }
    check(nmb_instance_create(program, threads, LENGTH - 1, wait, board, &instance) == -EINVAL,
          "instance: a program that does not end where all meet");
    check(nmb_instance_create(program, 0, LENGTH, wait, board, &instance) == -EINVAL, "instance: of nobody");
    int rc = nmb_instance_create(program, threads, LENGTH, wait, board, &instance);
    check(rc == 0 && nmb_instance_barriers(instance) == 2, "instance: made");
    if (rc)
        return;

    int64_t now = nmb_monotonic_ns();
    nmb_serve closed = {.origin = now, .until = now + INT64_C(3600000000000), .steps = 3, .server = 7};
    rc = serve_with(&closed, 5);
    check(rc == 0 && all_called(30) && nmb_instance_steps(instance) == 15, "instance: five requests of three steps");
    check(board->claimed == 5 && nmb_instance_result(instance, threads - 1, 0) == 30, "instance: results");
    int right = 1;
    for (int i = 0; i < 5; i++) {
        const nmb_request *r = &board->requests[i];
        right &= r->server == 7 && r->done >= r->start && r->scheduled == r->start;
        right &= !i || r->start >= board->requests[i - 1].done;
    }
    check(right, "instance: closed loop, one after the other");
    const uint64_t *ticks = nmb_instance_op_ticks(instance);
    check(ticks[0] + ticks[1] > 0, "instance: time up to each meeting");

    nmb_board_clear(board, REQUESTS);
    closed.opening = 1; /* the calls come before the first barrier: once per request */
    check(serve_with(&closed, 5) == 0 && all_called(10) && nmb_instance_steps(instance) == 15, "instance: an opening");
    closed.opening = 0;

    nmb_board_clear(board, REQUESTS);
    closed.stall_at = 1; /* its service takes 4 ms, so 16 ms go by until the third request */
    closed.stall_ns = 4000000;
    closed.duty = 25;
    check(serve_with(&closed, 3) == 0 && board->claimed == 3, "instance: at work now and then");
    check(board->requests[2].start - board->requests[1].start >= 4 * closed.stall_ns,
          "instance: a quarter of the time");
    closed.duty = 0;
    closed.stall_ns = 0;

    nmb_board_clear(board, REQUESTS);
    closed.until = now; /* long ago */
    check(serve_with(&closed, 5) == 0 && all_called(0) && !board->claimed, "instance: the window is over");

    nmb_board_clear(board, REQUESTS);
    nmb_serve open = {.origin = nmb_monotonic_ns(), .steps = 1, .stall_at = 2, .stall_ns = 20000000};
    for (int i = 0; i < REQUESTS; i++)
        board->requests[i].scheduled = (int64_t)i * ROUND_NS / 8;
    nmb_board_send(board, 0, REQUESTS, open.origin, NULL);
    nmb_board_close(board);
    rc = serve_with(&open, UINT64_MAX);
    check(rc == 0 && all_called(2 * REQUESTS) && board->claimed == REQUESTS, "instance: all that was sent is served");
    check(board->requests[2].done - board->requests[2].start >= open.stall_ns, "instance: the planted stall");
    nmb_instance_destroy(instance);
    free(board);
}

/* Nothing is sent and nothing ends: the run can still be ended. */
static void test_waiting_ends(int wait)
{
    nmb_board *board = new_board(1);
    nmb_work program[MAX_THREADS];
    memset(program, 0, sizeof program);
    for (unsigned i = 0; i < threads; i++)
        program[i].loops = 1;
    nmb_serve how = {.origin = nmb_monotonic_ns(), .steps = 1};
    int rc = nmb_instance_create(program, threads, 1, wait, board, &instance);
    for (unsigned i = 0; i < threads && !rc; i++) {
        works[i] = (nmb_work){.kernel = &nmb_serve_kernel, .loops = 1};
        works[i].args = (nmb_args){.shared = instance, .part = i, .parts = threads, .chains = 1};
    }
    if (!rc) {
        nmb_instance_prepare(instance, &how);
        rc = nmb_team_start(team, works, 0, 0);
        check(rc == 0 && nmb_team_wait(team, 30) == -ETIMEDOUT, "instance: waits for requests");
        nmb_team_cancel(team);
        rc = wait_all();
    }
    check(rc == 0 && board->claimed == 0, "instance: waiting ends when asked to");
    nmb_instance_destroy(instance);
    free(board);
}

static void test_roaming(void)
{
    const int any[] = {NMB_ANY_CPU, NMB_ANY_CPU};
    int rc = nmb_team_create(&tick, any, 2, &team);
    check(rc == 0, "team: threads that roam");
    if (rc)
        return;
    threads = 2;
    works[0] = works[1] = (nmb_work){.kernel = &counting, .loops = 3};
    works[1].args.part = 1;
    calls[0] = calls[1] = 0;
    check(run_all(0, 0) == 0 && all_called(3) && nmb_team_stamps(team)[1].cpu_start >= 0, "team: they work");
    nmb_team_destroy(team);
}

static void test_instances(void)
{
    test_rows();
    test_sending();
    test_roaming();
    for (threads = 1; threads <= 3; threads++) {
        int on[3];
        for (unsigned i = 0; i < threads; i++)
            on[i] = cpus[i % cpu_count];
        if (nmb_team_create(&tick, on, threads, &team)) {
            check(0, "instance: team");
            return;
        }
        for (int wait = threads > cpu_count ? NMB_WAIT_FUTEX : NMB_WAIT_SPIN; wait <= NMB_WAIT_POLITE; wait++) {
            test_serving(wait);
            test_waiting_ends(wait);
        }
        nmb_team_destroy(team);
    }
    nmb_instance_destroy(NULL);
}
