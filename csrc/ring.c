/* SPDX-License-Identifier: Apache-2.0 */
#include "nmb.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "random.h"

enum {
    SLOT_PERIOD = 64,
    AHEAD = 24,             /* nodes prefetched by link and prove: their lines are known long before */
    BUCKET_NODES = 1 << 14, /* shuffled at once: 64 KiB of order, cache-resident on every core */
    LEAST_BUCKETS = 16,
    MOST_BUCKETS = 1 << 16
};

struct nmb_ring {
    nmb_ring_spec spec;
    size_t nodes, window_nodes, windows;
    uint32_t *order;             /* nodes in the order of travel; chain c owns [bound(c), bound(c + 1)) */
    uint32_t *window_order;      /* windows in the order of travel */
    size_t short_at;             /* where in window_order the last window stands, which may hold fewer nodes */
    _Atomic unsigned char *seen; /* by node: 1 if the proof came by; a byte each, so that parts need no lock */
    uint64_t slot[SLOT_PERIOD];
    _Atomic uint64_t wrong;
};

static size_t bound(const nmb_ring *ring, unsigned chain) { return ring->nodes * chain / ring->spec.chains; }

static void shuffle(uint32_t *items, size_t count, uint64_t *random)
{
    for (size_t i = count; i > 1; i--) { /* Fisher and Yates */
        size_t j = nmb_random_below(random, (uint32_t)i);
        uint32_t t = items[i - 1];
        items[i - 1] = items[j];
        items[j] = t;
    }
}

/* Where the pointer of a node stands: all nodes with theirs at one offset would share few cache sets and banks, and a
 * regular stride is what prefetchers look for (measured: 1.7 times too fast at 256 bytes). The pattern repeats like
 * multichase's: a slot hashed from every node anew reads 2 to 3 % slower than the same ring with this one. */
static void **slot(const nmb_ring *ring, uint32_t node)
{
    return (void **)((char *)ring->spec.base + node * ring->spec.stride + ring->slot[node % SLOT_PERIOD]);
}

static void choose_slots(nmb_ring *ring)
{
    uint64_t slots = ring->spec.stride / sizeof(void *);
    for (uint64_t i = 0; i < SLOT_PERIOD; i++)
        ring->slot[i] = ((nmb_mix(ring->spec.seed ^ i) >> 32) * slots >> 32) * sizeof(void *);
}

int nmb_ring_create(const nmb_ring_spec *spec, nmb_ring **out)
{
    if (spec->stride < sizeof(void *) || spec->stride % sizeof(void *) || (uintptr_t)spec->base % sizeof(void *) ||
        spec->chains < 1 || spec->chains > NMB_MAX_CHAINS || spec->bytes / spec->stride < spec->chains)
        return -EINVAL;
    if (spec->bytes / spec->stride > UINT32_MAX)
        return -EOVERFLOW;
    nmb_ring *ring = calloc(1, sizeof *ring);
    if (!ring)
        return -ENOMEM;
    ring->spec = *spec;
    ring->nodes = spec->bytes / spec->stride;
    ring->window_nodes = spec->window / spec->stride;
    if (ring->window_nodes < 1 || ring->window_nodes > ring->nodes)
        ring->window_nodes = ring->window_nodes ? ring->nodes : 1;
    ring->windows = (ring->nodes + ring->window_nodes - 1) / ring->window_nodes;
    ring->order = calloc(ring->nodes + AHEAD, sizeof *ring->order);
    ring->window_order = malloc(ring->windows * sizeof *ring->window_order);
    ring->seen = calloc(ring->nodes, 1);
    choose_slots(ring);
    if (!ring->order || !ring->window_order || !ring->seen) {
        nmb_ring_destroy(ring);
        return -ENOMEM;
    }
    uint64_t random = nmb_mix(spec->seed);
    for (size_t i = 0; i < ring->windows; i++)
        ring->window_order[i] = (uint32_t)i;
    shuffle(ring->window_order, ring->windows, &random);
    while (ring->window_order[ring->short_at] != ring->windows - 1)
        ring->short_at++;
    *out = ring;
    return 0;
}

void nmb_ring_destroy(nmb_ring *ring)
{
    if (!ring)
        return;
    free(ring->order);
    free(ring->window_order);
    free((void *)ring->seen);
    free(ring);
}

size_t nmb_ring_nodes(const nmb_ring *ring) { return ring->nodes; }

void *nmb_ring_start(const nmb_ring *ring, unsigned chain)
{
    return chain < ring->spec.chains ? slot(ring, ring->order[bound(ring, chain)]) : NULL;
}

/* A window larger than a cache: each node is thrown into one of many buckets, each bucket is shuffled, and their
 * sequence is a uniformly random order (Sanders, Information Processing Letters 67(6), 1998) without a cache miss at
 * every node. Each part throws all nodes, which touches no memory, and keeps those of its own buckets. */
static int order_in_buckets(uint32_t *order, size_t first, size_t count, uint64_t seed, unsigned part, unsigned parts)
{
    const size_t buckets = count / BUCKET_NODES < MOST_BUCKETS ? count / BUCKET_NODES : MOST_BUCKETS;
    const size_t from = buckets * part / parts, to = buckets * (part + 1) / parts;
    uint32_t *end = calloc(buckets + 1, sizeof *end);
    if (!end)
        return -ENOMEM;
    uint64_t random = seed;
    for (size_t i = 0; i < count; i++) /* end[b + 1]: nodes in bucket b */
        end[nmb_random_below(&random, (uint32_t)buckets) + 1]++;
    for (size_t b = 0; b < buckets; b++)
        end[b + 1] += end[b];
    uint32_t begin = end[from]; /* end[b]: where bucket b begins and, once it is filled, ends */
    random = seed;
    for (size_t i = 0; i < count; i++) {
        size_t b = nmb_random_below(&random, (uint32_t)buckets);
        if (b >= from && b < to)
            order[end[b]++] = (uint32_t)(first + i);
    }
    for (size_t b = from; b < to; begin = end[b++])
        shuffle(order + begin, end[b] - begin, &random);
    free(end);
    return 0;
}

int nmb_ring_order(nmb_ring *ring, unsigned part, unsigned parts)
{
    size_t full = ring->window_nodes, missing = full * ring->windows - ring->nodes;
    if (part >= parts)
        return -EINVAL;
    size_t from = ring->windows * part / parts, to = ring->windows * (part + 1) / parts;
    for (size_t i = 0; i < ring->windows; i++) {
        size_t window = ring->window_order[i];
        size_t count = full - (i == ring->short_at ? missing : 0);
        uint32_t *order = ring->order + i * full - (i > ring->short_at ? missing : 0);
        uint64_t random = nmb_mix(ring->spec.seed + window + 1);
        if (count >= LEAST_BUCKETS * BUCKET_NODES) {
            int rc = order_in_buckets(order, window * full, count, random, part, parts);
            if (rc)
                return rc;
        } else if (i >= from && i < to) {
            for (size_t j = 0; j < count; j++)
                order[j] = (uint32_t)(window * full + j);
            shuffle(order, count, &random);
        }
    }
    return 0;
}

/* Calls nothing for the chains outside of positions [from, to): `next` is the position that follows `i` on its chain.
 */
#define FOR_EACH_STEP(ring, part, parts, i, next)                                                                      \
    for (unsigned chain_ = 0; chain_ < (ring)->spec.chains; chain_++)                                                  \
        for (size_t lo_ = bound(ring, chain_), hi_ = bound(ring, chain_ + 1),                                          \
                    from_ = (ring)->nodes * (part) / (parts), to_ = (ring)->nodes * ((part) + 1) / (parts),            \
                    i = from_ > lo_ ? from_ : lo_, next = i + 1 < hi_ ? i + 1 : lo_;                                   \
             i < hi_ && i < to_; i++, next = i + 1 < hi_ ? i + 1 : lo_)

int nmb_ring_link(nmb_ring *ring, unsigned part, unsigned parts)
{
    if (part >= parts)
        return -EINVAL;
    FOR_EACH_STEP(ring, part, parts, i, next)
    {
        __builtin_prefetch(slot(ring, ring->order[i + AHEAD]), 1);
        *slot(ring, ring->order[i]) = slot(ring, ring->order[next]);
    }
    return 0;
}

/* The pointers are `chains` cycles over all nodes if the order names every node (thus each once: it has as many places
 * as there are nodes) and each node's pointer leads to the next one's slot. Nothing waits for a chain of dependent
 * loads. */
int nmb_ring_prove(nmb_ring *ring, unsigned part, unsigned parts)
{
    uint64_t wrong = 0;
    if (part >= parts)
        return -EINVAL;
    FOR_EACH_STEP(ring, part, parts, i, next)
    {
        uint32_t node = ring->order[i];
        __builtin_prefetch(slot(ring, ring->order[i + AHEAD]));
        if (node >= ring->nodes) {
            wrong++;
            continue;
        }
        atomic_store_explicit(&ring->seen[node], 1, memory_order_relaxed);
        wrong += *slot(ring, node) != slot(ring, ring->order[next]);
    }
    atomic_fetch_add(&ring->wrong, wrong);
    return 0;
}

int nmb_ring_proven(const nmb_ring *ring)
{
    return ring->wrong || memchr((const void *)ring->seen, 0, ring->nodes) ? -EILSEQ : 0;
}

uint64_t nmb_ring_walk(void *start, uint64_t limit)
{
    void *p = start;
    for (uint64_t steps = 1; steps <= limit; steps++) {
        p = *(void *volatile *)p;
        if (p == start)
            return steps;
    }
    return 0;
}
