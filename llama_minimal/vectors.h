// What products and attention in C++ share: rows of numbers that meet a few vectors, read as fast as memory gives them.

#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <omp.h>

#include <array>
#include <cstdint>
#include <cstring>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

// Numbers that are read together (of float32 half an AVX-512 register: that is the faster way to read memory), and
// vectors that a row meets while it is in the registers, of which there are 32 or 16.
#ifdef __AVX512F__
constexpr int N = 16, VECTORS = 4;
#else
constexpr int N = 8, VECTORS = 2;
#endif
typedef float Floats __attribute__((vector_size(4 * N)));
typedef float Eight __attribute__((vector_size(32)));

template <typename Lanes>
Lanes as(const void* x) {  // at any address
    Lanes out;
    std::memcpy(&out, x, sizeof out);
    return out;
}

// lanes + w x, number by number.
Eight added(Eight lanes, const float* w, const float* x) { return lanes + as<Eight>(w) * as<Eight>(x); }

Floats added(Floats lanes, const uint16_t* w, const float* x) {  // bfloat16: the upper half of a float32
    typedef uint16_t Halves __attribute__((vector_size(2 * N)));
    typedef int32_t Ints __attribute__((vector_size(4 * N)));
    return lanes + (Floats)(__builtin_convertvector(as<Halves>(w), Ints) << 16) * as<Floats>(x);
}

Floats added(Floats lanes, const int8_t* w, const float* x) {
#ifdef __AVX512F__  // by name: gcc 12 takes the other way number by number
    const Floats wide = (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(as<__m128i>(w)));
#else
    typedef int8_t Bytes __attribute__((vector_size(N)));
    const Floats wide = __builtin_convertvector(as<Bytes>(w), Floats);
#endif
    return lanes + wide * as<Floats>(x);
}

#ifdef __AVX512BF16__
__m512 added(__m512 lanes, const uint16_t* w, const uint16_t* x) {  // both bfloat16: two products a lane
    return _mm512_dpbf16_ps(lanes, as<__m512bh>(w), as<__m512bh>(x));
}
#endif

// In what w x is added up, and how many numbers that are at a time.
template <typename W, typename X>
struct Adds {
    typedef Floats Lanes;
    static constexpr int64_t STEP = N;
};

template <>
struct Adds<float, float> {
    typedef Eight Lanes;
    static constexpr int64_t STEP = 8;
};

#ifdef __AVX512BF16__
template <>
struct Adds<uint16_t, uint16_t> {
    typedef __m512 Lanes;
    static constexpr int64_t STEP = 32;
};
#endif

float one(float w) { return w; }
float one(int8_t w) { return w; }

float one(uint16_t w) {
    const uint32_t wide = uint32_t(w) << 16;
    float out;
    std::memcpy(&out, &wide, sizeof out);
    return out;
}

template <typename Lanes>
float total(Lanes x) {
    float out = 0;
    for (size_t i = 0; i < sizeof(Lanes) / sizeof(float); i++) out += x[i];
    return out;
}

template <int S, int V>
using Sums = std::array<std::array<float, V>, S>;

// Return what S rows of w, so many numbers apart, give with V vectors: S V sums, none of which waits for another.
template <int S, int V, typename W, typename X>
Sums<S, V> sums_of_rows(const W* w, int64_t apart, const X* x, int64_t n_in) {
    typename Adds<W, X>::Lanes lanes[S][V] = {};
    constexpr int64_t STEP = Adds<W, X>::STEP;
    int64_t i = 0;
    for (; i + STEP <= n_in; i += STEP)
        for (int s = 0; s < S; s++)
            for (int v = 0; v < V; v++) lanes[s][v] = added(lanes[s][v], w + s * apart + i, x + v * n_in + i);
    Sums<S, V> sums;
    for (int s = 0; s < S; s++)
        for (int v = 0; v < V; v++) {
            sums[s][v] = total(lanes[s][v]);
            for (int64_t k = i; k < n_in; k++) sums[s][v] += one(w[s * apart + k]) * one(x[v * n_in + k]);
        }
    return sums;
}

// Rows that a thread reads in turn, far from each other: memory answers several readers faster than one, and takes
// neighbors for one reader with gaps.
constexpr int ROWS = 4;

// Call put<S, V>(r, apart, v) until all rows from begin to end have met all vectors: S rows, r and those so many rows
// apart, meet V vectors, v and those behind it.
template <typename Put>
void in_blocks(int64_t begin, int64_t end, int64_t n_vectors, const Put& put) {
    const auto put_all = [&]<int S>(int64_t r, int64_t apart) {
        int64_t v = 0;
        for (; v + VECTORS <= n_vectors; v += VECTORS) put.template operator()<S, VECTORS>(r, apart, v);
        for (; v + 2 <= n_vectors; v += 2) put.template operator()<S, 2>(r, apart, v);
        for (; v < n_vectors; v++) put.template operator()<S, 1>(r, apart, v);
    };
    const int64_t apart = (end - begin) / ROWS;
    for (int64_t r = begin; r < begin + apart; r++) put_all.template operator()<ROWS>(r, apart);
    for (int64_t r = begin + ROWS * apart; r < end; r++) put_all.template operator()<1>(r, 0);
}

}  // namespace
