// The device code on the processor, for tests: every thread of a grid, one after the other.
//
// Threads are contexts of their own only in kernels with barriers, where they take turns.
#include <string.h>
#include <ucontext.h>

#include "riverbed.cu"

static u32 current_thread, current_block, blocks;
static u64 ticks;

u32 thread_index() { return current_thread; }
u32 block_index() { return current_block; }
u32 block_count() { return blocks; }
void atomic_add(u64 at, u64 value) { *(u64 *)at += value; }
u64 clock_ticks() { return ++ticks; }

// Barriers: a thread that comes to one hands over to the next, and has done so `waits` times.
static ucontext_t turns, threads[BLOCK];
static u32 waits[BLOCK];
static bool ended[BLOCK];

void barrier() {
    ++waits[current_thread];
    swapcontext(&threads[current_thread], &turns);
}

static Checksum checksum_args;

static void checksum_thread() {
    riverbed_checksum(checksum_args);
    ended[current_thread] = true;
}

static void prepare(u32 thread) {
    static char stacks[BLOCK][16384];
    ucontext_t &context = threads[thread];
    getcontext(&context);
    context.uc_stack.ss_sp = stacks[thread];
    context.uc_stack.ss_size = sizeof stacks[thread];
    context.uc_link = &turns;
    makecontext(&context, checksum_thread, 0);
    waits[thread] = 0;
    ended[thread] = false;
}

// False when some threads end while others wait: a GPU would hang.
static bool run_block_with_barriers() {
    for (u32 i = 0; i < BLOCK; ++i) prepare(i);
    do {
        for (current_thread = 0; current_thread < BLOCK; ++current_thread) {
            swapcontext(&turns, &threads[current_thread]);
            if (waits[current_thread] != waits[0] || ended[current_thread] != ended[0]) return false;
        }
    } while (!ended[0]);
    return true;
}

enum Result { done, no_such_function, wrong_parameter, wrong_block, barrier_missed };

template <typename Args>
static Result run(void (*kernel)(Args), u32 block, u32 threads, const void *args, u64 bytes) {
    if (bytes != sizeof(Args)) return wrong_parameter;
    if (block != threads) return wrong_block;
    Args copy;
    memcpy(&copy, args, sizeof copy);
    for (current_block = 0; current_block < blocks; ++current_block) {
        for (current_thread = 0; current_thread < block; ++current_thread) kernel(copy);
    }
    return done;
}

static Result run_checksum(u32 block, const void *args, u64 bytes) {
    if (bytes != sizeof checksum_args) return wrong_parameter;
    if (block != BLOCK) return wrong_block;
    memcpy(&checksum_args, args, sizeof checksum_args);
    for (current_block = 0; current_block < blocks; ++current_block) {
        if (!run_block_with_barriers()) return barrier_missed;
    }
    return done;
}

// One launch; 0 when all went well. `bytes` is the size of the parameter at `args`.
extern "C" int riverbed_emulate(
    const char *function, u32 grid, u32 block, const void *args, u64 bytes
) {
    blocks = grid;
    const auto is = [function](const char *name) { return strcmp(function, name) == 0; };
    if (is("riverbed_checksum")) return run_checksum(block, args, bytes);
    if (is("riverbed_checksum_start")) return run(riverbed_checksum_start, block, 1, args, bytes);
    if (is("riverbed_fill")) return run(riverbed_fill, block, BLOCK, args, bytes);
    if (is("riverbed_gather")) return run(riverbed_gather, block, BLOCK, args, bytes);
    if (is("riverbed_cast")) return run(riverbed_cast, block, BLOCK, args, bytes);
    if (is("riverbed_dequantise")) return run(riverbed_dequantise, block, BLOCK, args, bytes);
    if (is("riverbed_patch")) return run(riverbed_patch, block, BLOCK, args, bytes);
    if (is("riverbed_patch_singly")) return run(riverbed_patch_singly, block, BLOCK, args, bytes);
    if (is("riverbed_busy")) return run(riverbed_busy, block, 1, args, bytes);
    return no_such_function;
}
