// SPDX-License-Identifier: Apache-2.0
// A QEMU TCG plugin that makes memory accesses cost what the described machine says.
//
//   cpus=0:0:1:1        initiator node of each vCPU
//   ram=START-BYTES-NODE, hexadecimal, one for each node with memory, as QEMU tells addresses to plugins
//   lines=N             lines of each vCPU's direct-mapped tag table, a power of two: only misses pay
//   delay=I-T-CYCLES    time stamp counter cycles that a miss from node I to node T takes at least
//   cap=I-T-CYCLES      cycles that the link from I to T is busy with one line
//   burst=CYCLES        how far a link may catch up after its users were kept from running
//
// Only accesses to user-space addresses pay: the kernel's own work is then not slowed, and booting is not either.
// Not seen at all: instruction fetches, page-table walks, prefetches, flushes. Stores are like loads, and a line
// that another vCPU has written still hits.
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
bool qemu_plugin_hwaddr_is_io(const struct qemu_plugin_hwaddr *);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct qemu_plugin_hwaddr *);

EXPORT int qemu_plugin_version = 1;

enum { MAX_NODES = 16, MAX_CPUS = 64, LINE_BITS = 6, RECENT = 64 };

struct link {
    uint64_t delay;
    uint64_t busy;
    _Alignas(64) _Atomic uint64_t free_at; // when the link has carried all that was asked of it
};

struct cpu {
    _Alignas(64) uint64_t recent[RECENT]; // virtual lines touched last: they hit, and need no translation
    uint64_t *tags;
};

static struct link links[MAX_NODES][MAX_NODES];
static struct cpu cpus[MAX_CPUS];
static unsigned node_of_cpu[MAX_CPUS];
static struct {
    uint64_t start, bytes;
    unsigned node;
} ram[MAX_NODES];
static unsigned ram_count;
static uint64_t line_mask;
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

static void on_access(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t vaddr, void *unused)
{
    (void)unused;
    if (vaddr >> 63) {
        if (!atomic_load_explicit(&armed, memory_order_relaxed))
            atomic_store(&armed, true);
        return;
    }
    struct cpu *cpu = &cpus[vcpu];
    uint64_t *recent = &cpu->recent[vaddr >> LINE_BITS & (RECENT - 1)];
    if (*recent == vaddr >> LINE_BITS || !atomic_load_explicit(&armed, memory_order_relaxed))
        return;
    uint64_t now = __rdtsc();
    struct qemu_plugin_hwaddr *where = qemu_plugin_get_hwaddr(info, vaddr);
    if (!where || qemu_plugin_hwaddr_is_io(where))
        return;
    uint64_t address = qemu_plugin_hwaddr_phys_addr(where);
    *recent = vaddr >> LINE_BITS;
    uint64_t *tag = &cpu->tags[address >> LINE_BITS & line_mask];
    if (*tag == address >> LINE_BITS)
        return;
    *tag = address >> LINE_BITS;
    for (unsigned i = 0; i < ram_count; i++) {
        if (address - ram[i].start >= ram[i].bytes)
            continue;
        struct link *link = &links[node_of_cpu[vcpu]][ram[i].node];
        uint64_t until = now + link->delay;
        if (link->busy) {
            uint64_t free_at = reserve(link, now);
            if (free_at > until)
                until = free_at;
        }
        // No pause instruction: it takes over a hundred cycles on some CPUs, which would add to short delays.
        while ((int64_t)(until - __rdtsc()) > 0) {
        }
        return;
    }
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
    } else if (sscanf(text, "lines=%llu", &value) == 1 && value && !(value & (value - 1))) {
        line_mask = value - 1;
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
    for (unsigned i = 0; i < MAX_CPUS; i++)
        if (!(cpus[i].tags = calloc(line_mask + 1, sizeof *cpus[i].tags)))
            return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    return 0;
}
