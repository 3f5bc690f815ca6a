// The checksum of a byte range, one source for CUDA and HIP. The definition and the reference
// are in src/device/kernel.rs; the words add up in any order, so every thread sums its share and
// adds it to *out, which the caller has set to 0.
//
// Not built and not run yet: it waits for the device backends that launch it.

#define STEP 0x9e3779b97f4a7c15ull
#define MIX 0x9fb21c651e98df25ull

static __device__ unsigned long long mix(unsigned long long x) {
    const unsigned long long y = (x ^ (x >> 32)) * MIX;
    return y ^ (y >> 29);
}

extern "C" __global__ void riverbed_checksum(const unsigned char *src, unsigned long long bytes,
                                             unsigned long long *out) {
    const unsigned long long words = (bytes + 7) / 8;
    const unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;
    const unsigned long long first = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    unsigned long long sum = first == 0 ? mix(bytes) : 0;
    for (unsigned long long i = first; i < words; i += stride) {
        unsigned long long word = 0;
        // Byte by byte: tensors need not be 8-aligned, and the last word may be short.
        for (unsigned b = 0; b < 8 && 8 * i + b < bytes; ++b) {
            word |= (unsigned long long)src[8 * i + b] << (8 * b);
        }
        sum += mix(word + (i + 1) * STEP);
    }
    atomicAdd(out, sum);
}
