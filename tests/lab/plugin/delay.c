// SPDX-License-Identifier: Apache-2.0
// A QEMU TCG plugin that makes memory accesses cost what the described machine says.
//
//   cpus=0:0:1:1        initiator node of each vCPU
//   ram=START-BYTES-NODE, hexadecimal, one for each node with memory, as QEMU tells addresses to plugins
//   lines=N             lines of each vCPU's cache, a power of two, at least 8: only misses pay
//   delay=I-T-CYCLES    time stamp counter cycles that a miss from node I to node T takes at least
//   cap=I-T-CYCLES      cycles that the link from I to T is busy with one line
//   burst=CYCLES        how far a link may catch up after its users were kept from running
//
// Only accesses to user-space addresses pay: the kernel's own work is then not slowed, and booting is not either.
// Not seen at all: instruction fetches, page-table walks, prefetches, flushes. Stores are like loads. A cache is 8-way
// set associative, and the line used longest ago leaves its set. A line that another vCPU has stored to since misses,
// and so does a store to a line that another vCPU has read since: the invalidation. Both cost what the line's home
// costs, for there is no transfer from cache to cache. QEMU tells of an access once it is done: its value may be seen
// elsewhere before its cost is paid.
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

// The part of QEMU 7.2's plugin interface that is used here: its header is not packaged.
#define EXPORT __attribute__((visibility("default")))
typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_hwaddr;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
enum qemu_plugin_mem_rw { QEMU_PLUGIN_MEM_R = 1, QEMU_PLUGIN_MEM_W, QEMU_PLUGIN_MEM_RW };
typedef void (*tb_trans_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*mem_cb)(unsigned vcpu, qemu_plugin_meminfo_t, uint64_t vaddr, void *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_trans_cb);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, mem_cb, enum qemu_plugin_cb_flags,
                                      enum qemu_plugin_mem_rw, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
struct qemu_plugin_hwaddr *qemu_plugin_get_hwaddr(qemu_plugin_meminfo_t, uint64_t vaddr);
bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t);
bool qemu_plugin_hwaddr_is_io(const struct qemu_plugin_hwaddr *);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct qemu_plugin_hwaddr *);

EXPORT int qemu_plugin_version = 1;

enum { MAX_NODES = 16, MAX_CPUS = 63, LINE_BITS = 6, RECENT = 64, WAYS = 8 };

struct link {
    uint64_t delay;
    uint64_t busy;
    _Alignas(64) _Atomic uint64_t free_at; // when the link has carried all that was asked of it
};

// What all vCPUs know of a line: who wrote it last, or first read it (number + 1, 0 for nobody), whether another one
// has read it since, and how often it was taken from others for a store.
typedef _Atomic uint32_t line_state;
enum { OWNER = MAX_CPUS, SHARED = OWNER + 1, TAKEN = SHARED << 1 };

struct way {
    uint32_t line, seen; // index of the line + 1, and its state but for SHARED when it was last paid for
};

struct recent {
    uint64_t line; // virtual
    line_state *state;
    uint32_t seen, node;
};

struct cpu {
    _Alignas(64) struct recent recent[RECENT]; // touched last: they need no translation
    struct way (*sets)[WAYS];
};

static struct link links[MAX_NODES][MAX_NODES];
static struct cpu cpus[MAX_CPUS];
static unsigned node_of_cpu[MAX_CPUS];
static struct {
    uint64_t start, bytes;
    line_state *lines;
    unsigned node;
} ram[MAX_NODES];
static unsigned ram_count;
static uint64_t line_count;
static uint64_t burst;
// Firmware and the kernel's first steps run at low addresses; user space exists only once high ones are in use.
static atomic_bool armed;

static uint64_t reserve(struct link *link, uint64_t now)
{
    uint64_t was = atomic_load_explicit(&link->free_at, memory_order_relaxed), next;
    do {
        uint64_t oldest = now - burst;
        next = (was > oldest ? was : oldest) + link->busy;
    } while (
        !atomic_compare_exchange_weak_explicit(&link->free_at, &was, next, memory_order_relaxed, memory_order_relaxed));
    return next;
}

static void pay(unsigned vcpu, unsigned node, uint64_t now)
{
    struct link *link = &links[node_of_cpu[vcpu]][node];
    uint64_t until = now + link->delay;
    if (link->busy) {
        uint64_t free_at = reserve(link, now);
        if (free_at > until)
            until = free_at;
    }
    // No pause instruction: it takes over a hundred cycles on some CPUs, which would add to short delays.
    while ((int64_t)(until - __rdtsc()) > 0) {
    }
}

// Whether the vCPU has to ask the line's home. *seen is the line's state as the vCPU knows it. Two vCPUs at once may
// overwrite each other's state; then the one whose state is lost misses at its next access.
static bool misses(unsigned vcpu, bool store, line_state *state, uint32_t *seen)
{
    uint32_t is = atomic_load_explicit(state, memory_order_relaxed), me = vcpu + 1;
    if ((is & ~(uint32_t)SHARED) == *seen && (!store || (is & (OWNER | SHARED)) == me))
        return false;
    uint32_t next = is;
    if (store)
        next = ((is & ~(uint32_t)(OWNER | SHARED)) + TAKEN) | me;
    else if (!(is & OWNER))
        next |= me;
    else if ((is & OWNER) != me)
        next |= SHARED;
    if (next != is)
        atomic_store_explicit(state, next, memory_order_relaxed);
    *seen = next & ~(uint32_t)SHARED;
    return true;
}

static void on_access(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t vaddr, void *unused)
{
    (void)unused;
    if (vaddr >> 63) {
        if (!atomic_load_explicit(&armed, memory_order_relaxed))
            atomic_store(&armed, true);
        return;
    }
    if (!atomic_load_explicit(&armed, memory_order_relaxed))
        return;
    struct cpu *cpu = &cpus[vcpu];
    bool store = qemu_plugin_mem_is_store(info);
    struct recent *recent = &cpu->recent[vaddr >> LINE_BITS & (RECENT - 1)];
    if (recent->line == vaddr >> LINE_BITS) {
        if (misses(vcpu, store, recent->state, &recent->seen))
            pay(vcpu, recent->node, __rdtsc());
        return;
    }
    uint64_t now = __rdtsc(); // all that follows is part of the delay
    struct qemu_plugin_hwaddr *where = qemu_plugin_get_hwaddr(info, vaddr);
    if (!where || qemu_plugin_hwaddr_is_io(where))
        return;
    uint64_t address = qemu_plugin_hwaddr_phys_addr(where);
    unsigned i = 0;
    while (i < ram_count && address - ram[i].start >= ram[i].bytes)
        i++;
    if (i == ram_count)
        return;
    line_state *state = &ram[i].lines[(address - ram[i].start) >> LINE_BITS];
    uint32_t line = (uint32_t)(address >> LINE_BITS) + 1;
    struct way *set = cpu->sets[address >> LINE_BITS & (line_count / WAYS - 1)], used = {line, UINT32_MAX};
    unsigned way = 0;
    while (way < WAYS - 1 && set[way].line != line)
        way++;
    if (set[way].line == line)
        used = set[way];
    bool miss = misses(vcpu, store, state, &used.seen);
    for (; way; way--)
        set[way] = set[way - 1];
    set[0] = used;
    *recent = (struct recent){vaddr >> LINE_BITS, state, used.seen, ram[i].node};
    if (miss)
        pay(vcpu, ram[i].node, now);
}

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    size_t count = qemu_plugin_tb_n_insns(tb);
    for (size_t i = 0; i < count; i++)
        qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), on_access, QEMU_PLUGIN_CB_NO_REGS,
                                         QEMU_PLUGIN_MEM_RW, NULL);
}

static bool parse(char *text)
{
    unsigned from, to;
    unsigned long long value, bytes;
    if (sscanf(text, "delay=%u-%u-%llu", &from, &to, &value) == 3 && from < MAX_NODES && to < MAX_NODES) {
        links[from][to].delay = value;
    } else if (sscanf(text, "cap=%u-%u-%llu", &from, &to, &value) == 3 && from < MAX_NODES && to < MAX_NODES) {
        links[from][to].busy = value;
    } else if (sscanf(text, "ram=%llx-%llx-%u", &value, &bytes, &to) == 3 && ram_count < MAX_NODES && to < MAX_NODES) {
        ram[ram_count].start = value;
        ram[ram_count].bytes = bytes;
        ram[ram_count++].node = to;
    } else if (sscanf(text, "lines=%llu", &value) == 1 && value >= WAYS && !(value & (value - 1))) {
        line_count = value;
    } else if (sscanf(text, "burst=%llu", &value) == 1) {
        burst = value;
    } else if (!strncmp(text, "cpus=", 5)) {
        unsigned count = 0;
        for (char *item = strtok(text + 5, ":"); item; item = strtok(NULL, ":")) {
            if (count == MAX_CPUS || (node_of_cpu[count++] = (unsigned)atoi(item)) >= MAX_NODES)
                return false;
        }
    } else {
        return false;
    }
    return true;
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++)
        if (!parse(argv[i])) {
            fprintf(stderr, "delay: bad argument %s\n", argv[i]);
            return -1;
        }
    // Untouched parts of either cost nothing.
    for (unsigned i = 0; i < MAX_CPUS; i++)
        if (!(cpus[i].sets = calloc(line_count / WAYS, sizeof *cpus[i].sets)))
            return -1;
    for (unsigned i = 0; i < ram_count; i++)
        if (!(ram[i].lines = calloc(ram[i].bytes >> LINE_BITS, sizeof *ram[i].lines)))
            return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    return 0;
}
