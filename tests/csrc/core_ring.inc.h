/* SPDX-License-Identifier: Apache-2.0 */
/* Part of core_selftest.c: pointer rings of many shapes, and faults planted in them. */

/* All jobs in `parts` parts. */
static int ring_build(nmb_ring *ring, unsigned parts)
{
    int (*const job[])(nmb_ring *, unsigned, unsigned) = {nmb_ring_order, nmb_ring_shuffle, nmb_ring_link,
                                                          nmb_ring_prove};
    for (size_t j = 0; j < COUNT(job); j++)
        for (unsigned part = 0; part < parts; part++)
            if (job[j](ring, part, parts))
                return 0;
    return nmb_ring_proven(ring) == 0;
}

static int prove_again(const nmb_ring_spec *spec, void **changed, void *to)
{
    nmb_ring *ring = NULL;
    if (nmb_ring_create(spec, &ring))
        return 1;
    ring_build(ring, 1);
    void *was = *changed;
    *changed = to ? to : changed;
    nmb_ring *fresh = NULL; /* the counts of a proof add up, so a second proof needs a ring of its own */
    int rc = 1;
    if (nmb_ring_create(spec, &fresh) == 0 && nmb_ring_order(fresh, 0, 1) == 0 && nmb_ring_shuffle(fresh, 0, 1) == 0 &&
        nmb_ring_prove(fresh, 0, 1) == 0)
        rc = nmb_ring_proven(fresh);
    *changed = was;
    nmb_ring_destroy(fresh);
    nmb_ring_destroy(ring);
    return rc;
}

static int ring_ok(void **memory, size_t bytes, size_t stride, size_t window, unsigned chains, unsigned parts)
{
    nmb_ring_spec spec = {memory, bytes, stride, window, chains, 42 + window};
    nmb_ring *ring = NULL;
    memset(memory, 0, bytes);
    if (nmb_ring_create(&spec, &ring))
        return 0;
    size_t nodes = nmb_ring_nodes(ring);
    int ok = nodes == bytes / stride && nmb_ring_proven(ring) == -EILSEQ && ring_build(ring, parts);
    unsigned char *visited = calloc(nodes, 1);
    ok &= visited != NULL;
    for (unsigned c = 0; ok && c < chains; c++) {
        void *start = nmb_ring_start(ring, c), *p = start;
        uint64_t steps = nmb_ring_walk(start, nodes);
        ok &= steps == nodes * (c + 1) / chains - nodes * c / chains && nmb_ring_walk(start, steps - 1) == 0;
        for (uint64_t i = 0; ok && i < steps; i++, p = *(void **)p) {
            size_t node = (size_t)((char *)p - (char *)memory) / stride;
            ok &= node < nodes && !visited[node]; /* chains are disjoint, and no node twice */
            visited[node < nodes ? node : 0] = 1;
        }
        ok &= p == start;
    }
    ok = ok && !memchr(visited, 0, nodes) && !nmb_ring_start(ring, chains);
    if (ok && nodes > chains) { /* planted faults: a chain cut short, a pointer that two nodes hold, one that is NULL */
        void **start = nmb_ring_start(ring, 0), **next = *start;
        ok &= prove_again(&spec, start, NULL) == (next == start ? 0 : -EILSEQ);
        ok &= next == start || prove_again(&spec, start, *next) == -EILSEQ;
        ok &= prove_again(&spec, start, (char *)*start + 1) == -EILSEQ;
    }
    free(visited);
    nmb_ring_destroy(ring);
    return ok;
}

/* Mean distance between one node and the next, for a random order a third of the nodes with a standard error of about
 * 0.24 / sqrt(nodes), and how often the next node is the neighbour: about once. 1 if either is off by 6 errors. */
static int ring_bias(void **memory, size_t nodes)
{
    nmb_ring_spec spec = {memory, nodes * 8, 8, SIZE_MAX, 1, 7};
    nmb_ring *ring = NULL;
    if (nmb_ring_create(&spec, &ring) || !ring_build(ring, 3))
        return 1;
    double sum = 0;
    unsigned neighbours = 0;
    for (size_t i = 0; i < nodes; i++) {
        double to = (double)((void **)memory[i] - memory), apart = to > (double)i ? to - (double)i : (double)i - to;
        sum += apart / (double)nodes;
        neighbours += apart == 1;
    }
    nmb_ring_destroy(ring);
    double off = sum / (double)nodes - 1.0 / 3;
    return off * off * (double)nodes > 0.0576 * 36 || neighbours > 12;
}

/* Steps of a ring in the order of addresses that do not lead to the next node: one, from the last to the first. */
static unsigned ring_jumps(void **memory, size_t nodes)
{
    nmb_ring_spec spec = {memory, nodes * 64, 64, 0, 1, 3};
    nmb_ring *ring = NULL;
    if (nmb_ring_create(&spec, &ring) || !ring_build(ring, 2))
        return ~0u;
    unsigned jumps = 0;
    char *at = nmb_ring_start(ring, 0);
    for (size_t i = 0; i < nodes; i++) {
        char *next = *(void **)at;
        jumps += (next - (char *)memory) / 64 != (at - (char *)memory) / 64 + 1;
        at = next;
    }
    nmb_ring_destroy(ring);
    return jumps;
}

static void test_rings(void)
{
    static const size_t strides[] = {8, 16, 64, 192, 4096, 4160}, windows[] = {0, 1, 64, 4096, 65536, SIZE_MAX};
    static const size_t sizes[] = {1, 2, 3, 16, 17, 64, 1000, 4097};
    static const unsigned chains[] = {1, 2, 3, 7, 16}, parts[] = {1, 2, 5};
    for (size_t s = 0; s < COUNT(strides); s++) {
        unsigned cases = 0, wrong = 0;
        for (size_t n = 0; n < COUNT(sizes) - (quick ? 1 : 0); n++) {
            size_t bytes = sizes[n] * strides[s];
            void **memory = malloc(bytes); /* exact, so that the sanitizers see a step outside */
            for (size_t w = 0; w < COUNT(windows); w++)
                for (size_t c = 0; c < COUNT(chains); c++)
                    for (size_t p = 0; p < COUNT(parts) - (quick ? 1 : 0) && chains[c] <= sizes[n]; p++, cases++)
                        wrong += !ring_ok(memory, bytes, strides[s], windows[w], chains[c], parts[p]);
            free(memory);
        }
        check(cases && !wrong, "ring: stride %zu, %u cases, %u wrong", strides[s], cases, wrong);
    }
    void **lines = malloc(1000 * 64);
    check(lines && ring_jumps(lines, 1000) == 1, "ring: a window of 0 is the order of addresses");
    free(lines);
    if (!quick) { /* windows so large that they are ordered in buckets */
        static const size_t large[] = {1 << 18, (1 << 19) + 4099};
        unsigned cases = 0, wrong = 0;
        void **memory = malloc(large[1] * 8);
        for (size_t n = 0; n < COUNT(large); n++)
            for (unsigned p = 1; p <= 5; p += 2, cases += 2) {
                wrong += !ring_ok(memory, large[n] * 8, 8, SIZE_MAX, 3, p);
                wrong += !ring_ok(memory, large[n] * 8, 8, large[0] * 8, 1, p);
            }
        check(!wrong, "ring: large windows, %u cases, %u wrong", cases, wrong);
        wrong = ring_bias(memory, large[0]);
        check(!wrong, "ring: large windows are in random order");
        free(memory);
    }
    void *memory[64];
    nmb_ring *ring = NULL;
    const nmb_ring_spec bad[] = {
        {memory, 512, 4, 64, 1, 0},  {memory, 512, 12, 64, 1, 0},
        {memory, 512, 0, 64, 1, 0},  {(char *)memory + 4, 256, 8, 8, 1, 0},
        {memory, 512, 64, 64, 0, 0}, {memory, 512, 64, 64, NMB_MAX_CHAINS + 1, 0},
        {memory, 512, 64, 64, 9, 0}, {memory, 0, 64, 64, 1, 0},
    };
    for (size_t i = 0; i < COUNT(bad); i++)
        check(nmb_ring_create(&bad[i], &ring) == -EINVAL && !ring, "ring: bad spec %zu refused", i);
    nmb_ring_spec good = {memory, 512, 64, 64, 1, 0}, more = {memory, SIZE_MAX, 8, 8, 1, 0};
    check(nmb_ring_create(&more, &ring) == -EOVERFLOW, "ring: more than 2^32 nodes refused");
    check(nmb_ring_create(&good, &ring) == 0 && nmb_ring_order(ring, 1, 1) == -EINVAL &&
              nmb_ring_shuffle(ring, 1, 1) == -EINVAL && nmb_ring_link(ring, 2, 2) == -EINVAL &&
              nmb_ring_prove(ring, 0, 0) == -EINVAL,
          "ring: parts beyond the last refused");
    nmb_ring_destroy(ring);
    nmb_ring_destroy(NULL);
}
