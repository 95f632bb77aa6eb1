/* SPDX-License-Identifier: Apache-2.0 */
#include "nmb.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "random.h"

enum {
    SLOT_PERIOD = 64,
    AHEAD = 96,             /* positions by which link and prove look ahead in larger windows */
    NEAR = 256 << 10,       /* bytes of a window that stays in L2 while the next one comes */
    BUCKET_NODES = 1 << 14, /* shuffled at once: 64 KiB of order, cache-resident on every core */
    LEAST_BUCKETS = 16,
    MOST_BUCKET_BITS = 16
};

struct nmb_ring {
    nmb_ring_spec spec;
    size_t nodes, window_nodes, windows;
    uint32_t *order;             /* nodes in the order of travel; chain c owns [bound(c), bound(c + 1)) */
    uint32_t *window_order;      /* windows in the order of travel */
    uint32_t *ends;              /* of the buckets of large windows */
    unsigned near_bits;          /* of a node's number in a window of at most NEAR bytes; 0 if they are larger */
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
    ring->ends = calloc(ring->windows * (ring->window_nodes / BUCKET_NODES) + 1, sizeof *ring->ends);
    ring->seen = calloc(ring->nodes, 1);
    choose_slots(ring);
    if (!ring->order || !ring->window_order || !ring->ends || !ring->seen) {
        nmb_ring_destroy(ring);
        return -ENOMEM;
    }
    while ((size_t)2 << ring->near_bits <= ring->window_nodes)
        ring->near_bits++;
    if (spec->window > NEAR || (size_t)1 << ring->near_bits != ring->window_nodes)
        ring->near_bits = 0;
    uint64_t random = nmb_mix(spec->seed);
    for (size_t i = 0; i < ring->windows; i++)
        ring->window_order[i] = (uint32_t)i;
    if (spec->window)
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
    free(ring->ends);
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
 * every node. A throw depends on the node alone: each part counts all throws, which touches no memory, and puts its
 * share of the nodes into their buckets; the buckets are shuffled when all parts have done so. */
typedef struct {
    uint32_t *order, *ends; /* of the window: its nodes, where each bucket of them ends */
    size_t first, count;
    uint64_t seed;
    unsigned bits;
} thrown;

static size_t bucket(const thrown *t, size_t i) { return nmb_mix(t->seed + i * 0x9e3779b97f4a7c15u) >> (64 - t->bits); }

static int put(const thrown *t, unsigned part, unsigned parts)
{
    const size_t buckets = (size_t)1 << t->bits, from = t->count * part / parts, to = t->count * (part + 1) / parts;
    uint32_t *to_put = calloc(2 * buckets, sizeof *to_put), *rest = to_put + buckets;
    if (!to_put)
        return -ENOMEM;
    for (size_t i = 0; i < from; i++)
        to_put[bucket(t, i)]++;
    for (size_t i = from; i < t->count; i++)
        rest[bucket(t, i)]++;
    for (size_t b = 0, end = 0; b < buckets; b++) {
        const uint32_t earlier = to_put[b];
        to_put[b] += (uint32_t)end; /* where this part's first node of bucket b goes */
        end += earlier + rest[b];
        if (part == 0)
            t->ends[b] = (uint32_t)end;
    }
    for (size_t i = from; i < to; i++)
        t->order[to_put[bucket(t, i)]++] = (uint32_t)(t->first + i);
    free(to_put);
    return 0;
}

static void shuffle_buckets(const thrown *t, unsigned part, unsigned parts)
{
    const size_t buckets = (size_t)1 << t->bits;
    for (size_t b = buckets * part / parts; b < buckets * (part + 1) / parts; b++) {
        const size_t begin = b ? t->ends[b - 1] : 0;
        uint64_t random = nmb_mix(t->seed ^ ~b);
        shuffle(t->order + begin, t->ends[b] - begin, &random);
    }
}

/* Window number i in the order of travel; bits 0: it is shuffled in one. */
static thrown window_at(const nmb_ring *ring, size_t i)
{
    const size_t full = ring->window_nodes, missing = full * ring->windows - ring->nodes,
                 window = ring->window_order[i];
    thrown t = {.order = ring->order + i * full - (i > ring->short_at ? missing : 0),
                .ends = ring->ends + i * (full / BUCKET_NODES),
                .first = window * full,
                .count = full - (i == ring->short_at ? missing : 0),
                .seed = nmb_mix(ring->spec.seed + window + 1)};
    while (t.count / LEAST_BUCKETS >= BUCKET_NODES && t.bits < MOST_BUCKET_BITS &&
           t.count >> (t.bits + 1) >= BUCKET_NODES)
        t.bits++;
    return t;
}

int nmb_ring_order(nmb_ring *ring, unsigned part, unsigned parts)
{
    if (part >= parts)
        return -EINVAL;
    const size_t from = ring->windows * part / parts, to = ring->windows * (part + 1) / parts;
    for (size_t i = 0; i < ring->windows; i++) {
        thrown t = window_at(ring, i);
        int rc = t.bits ? put(&t, part, parts) : 0;
        if (rc)
            return rc;
        if (t.bits || i < from || i >= to)
            continue;
        for (size_t j = 0; j < t.count; j++)
            t.order[j] = (uint32_t)(t.first + j);
        shuffle(t.order, t.count, &t.seed);
    }
    return 0;
}

int nmb_ring_shuffle(nmb_ring *ring, unsigned part, unsigned parts)
{
    if (part >= parts)
        return -EINVAL;
    for (size_t i = 0; i < ring->windows; i++) {
        const thrown t = window_at(ring, i);
        if (t.bits)
            shuffle_buckets(&t, part, parts);
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

/* The slot to ask memory for at position i: a window ahead, node after node as they lie there, or else some positions
 * ahead. */
static inline void **soon(const nmb_ring *ring, size_t i)
{
    const size_t at = i + ring->window_nodes;
    if (!ring->near_bits || at >= ring->nodes)
        return slot(ring, ring->order[i + AHEAD]);
    const size_t within = at & (ring->window_nodes - 1);
    const size_t node = ring->window_order[at >> ring->near_bits] * ring->window_nodes + within;
    return slot(ring, (uint32_t)(node < ring->nodes ? node : 0)); /* the last window may be short */
}

int nmb_ring_link(nmb_ring *ring, unsigned part, unsigned parts)
{
    if (part >= parts)
        return -EINVAL;
    FOR_EACH_STEP(ring, part, parts, i, next)
    {
        __builtin_prefetch(soon(ring, i), 1);
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
        __builtin_prefetch(soon(ring, i));
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
