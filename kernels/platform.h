// What the kernels need of a compiler: clang for NVIDIA (-x cuda), clang for AMD (-x hip), or any
// C++ compiler for the processor, where emulate.cpp stands in for a GPU. No vendor's headers.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u32 u32x2 __attribute__((vector_size(8)));
typedef u32 u32x4 __attribute__((vector_size(16)));
typedef u64 u64x2 __attribute__((vector_size(16)));

// Threads of a block, in all kernels but those of a single thread.
#define BLOCK 256u

#if defined(__CUDA__) || defined(__HIP__)

#define DEVICE static inline __attribute__((device, always_inline))
#define DEVICE_MEMBER __attribute__((device, always_inline)) inline
#define KERNEL(threads) extern "C" __attribute__((global, launch_bounds(threads)))
#define SHARED __attribute__((shared))
// Pointers are made from numbers; this tells that they are to the device's memory.
#define GLOBAL __attribute__((address_space(1)))

#else

#define DEVICE static inline
#define DEVICE_MEMBER inline
#define KERNEL(threads) extern "C"
#define SHARED static
#define GLOBAL

#endif

#if defined(__CUDA__)

DEVICE u32 thread_index() { return __nvvm_read_ptx_sreg_tid_x(); }
DEVICE u32 block_index() { return __nvvm_read_ptx_sreg_ctaid_x(); }
DEVICE u32 block_count() { return __nvvm_read_ptx_sreg_nctaid_x(); }
DEVICE void barrier() { __syncthreads(); }

DEVICE void atomic_add(u64 at, u64 value) {
    asm volatile("red.global.add.u64 [%0], %1;" ::"l"(at), "l"(value) : "memory");
}

// Nanoseconds.
DEVICE u64 clock_ticks() {
    u64 now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}

#elif defined(__HIP__)

DEVICE u32 thread_index() { return __builtin_amdgcn_workitem_id_x(); }
DEVICE u32 block_index() { return __builtin_amdgcn_workgroup_id_x(); }
// Blocks are all of one size, so that the grid's threads tell their number.
DEVICE u32 block_count() { return __builtin_amdgcn_grid_size_x() / BLOCK; }

DEVICE void barrier() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

DEVICE void atomic_add(u64 at, u64 value) {
    __hip_atomic_fetch_add((GLOBAL u64 *)at, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}

// Ticks of the clock of fixed rate, which the host knows.
DEVICE u64 clock_ticks() { return __builtin_readsteadycounter(); }

#else

u32 thread_index();
u32 block_index();
u32 block_count();
void barrier();
void atomic_add(u64 at, u64 value);
u64 clock_ticks();

#endif

template <typename T> DEVICE T load(u64 at) { return *(const GLOBAL T *)at; }
template <typename T> DEVICE void store(u64 at, T value) { *(GLOBAL T *)at = value; }

DEVICE u64 least(u64 a, u64 b) { return a < b ? a : b; }

// This thread and the number of all, over the whole grid.
DEVICE u64 first_of_grid() { return (u64)block_index() * BLOCK + thread_index(); }
DEVICE u64 grid_stride() { return (u64)block_count() * BLOCK; }
