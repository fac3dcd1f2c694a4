// Products of a matrix and one vector. Each number of the matrix is read once and used once, so what counts is to
// read it as fast as memory gives it: rows are shared by the threads, and a row is added up in vector registers.

#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int64_t N = 16;  // numbers that go together; the compiler cuts them to what the processor has
typedef float Floats __attribute__((vector_size(4 * N), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(4 * N), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(2 * N), aligned(2)));
typedef int8_t Bytes __attribute__((vector_size(N), aligned(1)));
typedef uint8_t Pairs __attribute__((vector_size(N), aligned(1)));

Floats load(const float* w) { return *reinterpret_cast<const Floats*>(w); }

Floats load(const uint16_t* w) {  // bfloat16: the upper half of a float32
    return (Floats)(__builtin_convertvector(*reinterpret_cast<const Halves*>(w), Ints) << 16);
}

// In AVX-512 by name: gcc 12 takes the other way number by number.
Floats load(const int8_t* w) {
#ifdef __AVX512F__
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w))));
#else
    return __builtin_convertvector(*reinterpret_cast<const Bytes*>(w), Floats);
#endif
}

Ints widened(const uint8_t* bytes) {
#ifdef __AVX512F__
    return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
#else
    return __builtin_convertvector(*reinterpret_cast<const Pairs*>(bytes), Ints);
#endif
}

float one(float w) { return w; }
float one(int8_t w) { return w; }

float one(uint16_t w) {
    const uint32_t wide = uint32_t(w) << 16;
    float out;
    std::memcpy(&out, &wide, sizeof out);
    return out;
}

float total(Floats x) {
    float out = 0;
    for (int64_t i = 0; i < N; i++) out += x[i];
    return out;
}

// out = w x, of (n_out, n_in) and (n_in,). Two sums at a time: an addition need not wait for the one before.
template <typename W>
void product(const W* w, const float* x, float* out, int64_t n_out, int64_t n_in, int64_t n_threads) {
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t row = 0; row < n_out; row++) {
        const W* numbers = w + row * n_in;
        Floats even = {}, odd = {};
        int64_t i = 0;
        for (; i + 2 * N <= n_in; i += 2 * N) {
            even += load(numbers + i) * load(x + i);
            odd += load(numbers + i + N) * load(x + i + N);
        }
        float sum = total(even + odd);
        for (; i < n_in; i++) sum += one(numbers[i]) * x[i];
        out[row] = sum;
    }
}

// The same of codes in 4 bits, two neighbors a byte, (n_out, n_in / 2), with w = step · code + offset. A group of g
// numbers has one step and one offset: grids (n_out, n_in / g, 2). g is a multiple of 32, and n_in one of g.
void int4_product(const uint8_t* codes, const float* grids, const float* x, float* out, int64_t n_out, int64_t n_in,
                  int64_t g, int64_t n_threads) {
    const int64_t half = n_in / 2, n_groups = n_in / g;
    std::vector<float> pairs(n_in), sums(n_groups, 0.0f);  // of the vector: its even places, then its odd ones
    for (int64_t i = 0; i < n_in; i++) {
        pairs[i % 2 * half + i / 2] = x[i];
        sums[i / g] += x[i];
    }
    const float *even = pairs.data(), *odd = even + half;
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t row = 0; row < n_out; row++) {
        const uint8_t* bytes = codes + row * half;
        const float* grid = grids + row * n_groups * 2;
        Floats lanes = {};
        float offsets = 0;
        for (int64_t group = 0; group < n_groups; group++) {
            Floats part = {};
            for (int64_t i = group * g / 2; i < (group + 1) * g / 2; i += N) {
                const Ints two = widened(bytes + i);
                part += __builtin_convertvector(two & 15, Floats) * load(even + i);
                part += __builtin_convertvector(two >> 4, Floats) * load(odd + i);
            }
            lanes += part * grid[2 * group];
            offsets += sums[group] * grid[2 * group + 1];
        }
        out[row] = total(lanes) + offsets;
    }
}

}  // namespace

extern "C" {

void float32(const float* w, const float* x, float* out, int64_t n_out, int64_t n_in, int64_t n_threads) {
    product(w, x, out, n_out, n_in, n_threads);
}

void bfloat16(const uint16_t* w, const float* x, float* out, int64_t n_out, int64_t n_in, int64_t n_threads) {
    product(w, x, out, n_out, n_in, n_threads);
}

void int8(const int8_t* w, const float* x, float* out, int64_t n_out, int64_t n_in, int64_t n_threads) {
    product(w, x, out, n_out, n_in, n_threads);
}

void int4(const uint8_t* codes, const float* grids, const float* x, float* out, int64_t n_out, int64_t n_in, int64_t g,
          int64_t n_threads) {
    int4_product(codes, grids, x, out, n_out, n_in, g, n_threads);
}

}
