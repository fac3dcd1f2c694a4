// Products of matrices and a few vectors. Each number of a matrix is read once, and used once for each vector, so what
// counts is to read it as fast as memory gives it: rows are shared by the threads, each thread reads from several
// places in turn, and a row is added up in vector registers.

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "vector_attention.h"
#include "vectors.h"

using at::Tensor;
using at::TensorList;

namespace {

template <typename W>
std::vector<const W*> addresses(TensorList tensors) {
    std::vector<const W*> out;
    for (const Tensor& tensor : tensors) out.push_back(static_cast<const W*>(tensor.const_data_ptr()));
    return out;
}

// Return x wᵀ of every matrix, one beside the other: (n, in) -> (n, sum of outs). rows<S, V>(m, r, apart, v) gives
// what S rows of matrix m, r and those so many rows apart, make of V vectors, v and those behind it. No thread waits
// before the last matrix.
template <typename Rows>
Tensor each_row(TensorList weights, const Tensor& x, Rows rows) {
    int64_t n_rows = 0;
    for (const Tensor& w : weights) n_rows += w.size(0);
    const int64_t n_vectors = x.size(0), n_matrices = weights.size();
    Tensor out = at::empty({n_vectors, n_rows}, x.options().dtype(at::kFloat));
    float* const first = out.mutable_data_ptr<float>();
#pragma omp parallel num_threads(at::get_num_threads())
    {
        const int64_t thread = omp_get_thread_num(), n_threads = omp_get_num_threads();
        float* next = first;
        for (int64_t m = 0; m < n_matrices; m++) {
            const int64_t n = weights[m].size(0);
            in_blocks(n * thread / n_threads, n * (thread + 1) / n_threads, n_vectors,
                      [&]<int S, int V>(int64_t r, int64_t apart, int64_t v) {
                          const Sums<S, V> sums = rows.template operator()<S, V>(m, r, apart, v);
                          for (int s = 0; s < S; s++)
                              for (int k = 0; k < V; k++) next[(v + k) * n_rows + r + s * apart] = sums[s][k];
                      });
            next += n;
        }
    }
    return out;
}

template <typename W, typename X>
Tensor products(TensorList weights, const Tensor& x) {
    const auto w = addresses<W>(weights);
    const X* const vectors = static_cast<const X*>(x.const_data_ptr());
    const int64_t n_in = x.size(1);
    return each_row(weights, x, [&]<int S, int V>(int64_t m, int64_t r, int64_t apart, int64_t v) {
        return sums_of_rows<S, V>(w[m] + r * n_in, apart * n_in, vectors + v * n_in, n_in);
    });
}

// w = scale · code; grids: a scale for each row, (out,).
Tensor int8_products(TensorList weights, TensorList grids, const Tensor& x) {
    const auto w = addresses<int8_t>(weights);
    const auto scales = addresses<float>(grids);
    const float* const vectors = x.const_data_ptr<float>();
    const int64_t n_in = x.size(1);
    return each_row(weights, x, [&]<int S, int V>(int64_t m, int64_t r, int64_t apart, int64_t v) {
        Sums<S, V> sums = sums_of_rows<S, V>(w[m] + r * n_in, apart * n_in, vectors + v * n_in, n_in);
        for (int s = 0; s < S; s++)
            for (float& sum : sums[s]) sum *= scales[m][r + s * apart];
        return sums;
    });
}

constexpr int64_t BLOCK = 32, HALF = BLOCK / 2;

// A vector as codes of 4 bits meet it: blocks of 32, first the even places of a block, then its odd ones.
#ifdef __AVX2__
// Whole numbers of 16 bits and a step for each block: a product and the sum of two are one instruction then. Rounding
// changes a number by 1/65534 of the largest in its block at most.
struct Blocks {
    std::vector<int16_t> numbers;
    std::vector<float> steps, sums;
    typedef float Lanes __attribute__((vector_size(32)));

    Blocks(const float* x, int64_t n) : numbers(n), steps(n / BLOCK), sums(n / BLOCK) {
        for (int64_t b = 0; b < n / BLOCK; b++) {
            const float* const own = x + b * BLOCK;
            float sizes[BLOCK];
            for (int64_t i = 0; i < BLOCK; i++) sizes[i] = std::fabs(own[i]);
            for (int64_t half = HALF; half > 0; half /= 2)
                for (int64_t i = 0; i < half; i++) sizes[i] = sizes[i] > sizes[i + half] ? sizes[i] : sizes[i + half];
            const float scale = sizes[0] > 1e-30f ? 32767 / sizes[0] : 0;
            steps[b] = sizes[0] / 32767;
            Floats lanes = {};
            for (int64_t i = 0; i < BLOCK; i += N) lanes += as<Floats>(own + i);
            sums[b] = total(lanes);
            int16_t whole[BLOCK];
            for (int64_t i = 0; i < BLOCK; i++) whole[i] = int16_t(own[i] * scale + std::copysign(0.5f, own[i]));
            for (int64_t i = 0; i < HALF; i++) numbers[b * BLOCK + i] = whole[2 * i];
            for (int64_t i = 0; i < HALF; i++) numbers[b * BLOCK + HALF + i] = whole[2 * i + 1];
        }
    }

    struct Codes {
        __m256i even, odd;

        explicit Codes(const uint8_t* bytes) {
            const __m256i two = _mm256_cvtepu8_epi16(as<__m128i>(bytes));
            even = _mm256_and_si256(two, _mm256_set1_epi16(15)), odd = _mm256_srli_epi16(two, 4);
        }
    };

    // What block b, or eight from b on, are multiplied by.
    float scale(float step, int64_t b) const { return step * steps[b]; }
    Eight scales(const float* grid, int64_t b) const { return as<Eight>(grid) * as<Eight>(steps.data() + b); }

    Lanes times(const Codes& codes, int64_t b) const {
        const int16_t* const x = numbers.data() + b * BLOCK;
        const __m256i even = _mm256_madd_epi16(codes.even, as<__m256i>(x));
#ifdef __AVX512VNNI__
        return (Lanes)_mm256_cvtepi32_ps(_mm256_dpwssd_epi32(even, codes.odd, as<__m256i>(x + HALF)));
#else
        const __m256i odd = _mm256_madd_epi16(codes.odd, as<__m256i>(x + HALF));
        return (Lanes)_mm256_cvtepi32_ps(_mm256_add_epi32(even, odd));
#endif
    }
};
#else
struct Blocks {
    std::vector<float> numbers, sums;
    typedef float Lanes __attribute__((vector_size(4 * HALF)));
    typedef int32_t Whole __attribute__((vector_size(4 * HALF)));
    typedef uint8_t Pairs __attribute__((vector_size(HALF)));

    Blocks(const float* x, int64_t n) : numbers(n), sums(n / BLOCK) {
        for (int64_t i = 0; i < n; i++) numbers[i / BLOCK * BLOCK + i % 2 * HALF + i % BLOCK / 2] = x[i];
        for (int64_t i = 0; i < n; i++) sums[i / BLOCK] += x[i];
    }

    struct Codes {
        Lanes even, odd;

        explicit Codes(const uint8_t* bytes) {
            const Whole two = __builtin_convertvector(as<Pairs>(bytes), Whole);
            even = __builtin_convertvector(two & 15, Lanes), odd = __builtin_convertvector(two >> 4, Lanes);
        }
    };

    float scale(float step, int64_t) const { return step; }
    Eight scales(const float* grid, int64_t) const { return as<Eight>(grid); }

    Lanes times(const Codes& codes, int64_t b) const {
        const float* const x = numbers.data() + b * BLOCK;
        return codes.even * as<Lanes>(x) + codes.odd * as<Lanes>(x + HALF);
    }
};
#endif

// Two neighbors a byte, (out, in / 2), w = step · code + offset. A group of g numbers has one step and one offset:
// grids (out, 2, in / g), first the steps. g is a multiple of 32, and in one of g.
Tensor int4_products(TensorList weights, TensorList grids, const Tensor& x) {
    const auto w = addresses<uint8_t>(weights);
    const auto steps = addresses<float>(grids);
    const float* const vectors = x.const_data_ptr<float>();
    const int64_t n_in = x.size(1), n_groups = grids[0].size(2);
    const int64_t n_blocks = n_in / BLOCK, in_group = n_blocks / n_groups;
    const Blocks blocks(vectors, x.numel());  // of one vector behind those of the other
    std::vector<float> totals(x.size(0) * n_groups);
    for (size_t b = 0; b < blocks.sums.size(); b++) totals[b / in_group] += blocks.sums[b];
    return each_row(weights, x, [&]<int S, int V>(int64_t m, int64_t r, int64_t apart, int64_t v) {
        const uint8_t* const bytes = w[m] + r * n_in / 2;
        const float* const grid = steps[m] + r * n_groups * 2;
        const int64_t bytes_apart = apart * n_in / 2, grids_apart = apart * n_groups * 2;
        Blocks::Lanes lanes[S][V] = {};
        const auto add = [&](int64_t b, const auto& scale) {
#pragma GCC unroll 4
            for (int s = 0; s < S; s++) {
                const Blocks::Codes codes(bytes + s * bytes_apart + b * HALF);
#pragma GCC unroll 4
                for (int k = 0; k < V; k++) lanes[s][k] += blocks.times(codes, (v + k) * n_blocks + b) * scale(s, k);
            }
        };
        int64_t b = 0;
        for (; in_group == 1 && b + 8 <= n_blocks; b += 8) {  // the scales of eight blocks in one product
            Eight scales[S][V];
#pragma GCC unroll 4
            for (int s = 0; s < S; s++)
#pragma GCC unroll 4
                for (int k = 0; k < V; k++)
                    scales[s][k] = blocks.scales(grid + s * grids_apart + b, (v + k) * n_blocks + b);
            for (int i = 0; i < 8; i++) add(b + i, [&](int s, int k) { return scales[s][k][i]; });
        }
        for (; b < n_blocks; b++)
            add(b, [&](int s, int k) {
                return blocks.scale(grid[s * grids_apart + b / in_group], (v + k) * n_blocks + b);
            });
        Sums<S, V> sums;
        for (int s = 0; s < S; s++)
            for (int k = 0; k < V; k++) {
                const float *const offsets = grid + s * grids_apart + n_groups;
                const float* const of_x = &totals[(v + k) * n_groups];
                constexpr int64_t L = sizeof(Blocks::Lanes) / sizeof(float);
                int64_t i = 0;
                for (; i + L <= n_groups; i += L)
                    lanes[s][k] += as<Blocks::Lanes>(offsets + i) * as<Blocks::Lanes>(of_x + i);
                sums[s][k] = total(lanes[s][k]);
                for (; i < n_groups; i++) sums[s][k] += offsets[i] * of_x[i];
            }
        return sums;
    });
}

// What the arguments are stands with ``native.vector_products``.
Tensor vector_products(TensorList weights, TensorList grids, const Tensor& x) {
    const at::ScalarType kind = weights[0].scalar_type();
#ifdef __AVX512BF16__
    if (kind == at::kBFloat16 && x.scalar_type() == kind) return products<uint16_t, uint16_t>(weights, x.contiguous());
#endif
    const Tensor vectors = x.to(at::kFloat).contiguous();
    switch (kind) {
        case at::kFloat: return products<float, float>(weights, vectors);
        case at::kBFloat16: return products<uint16_t, float>(weights, vectors);
        case at::kChar: return int8_products(weights, grids, vectors);
        case at::kByte: return int4_products(weights, grids, vectors);
        default: TORCH_CHECK(false, "weights must be float32, bfloat16, int8 or uint8");
    }
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(llama_minimal, library) {
    library.def("vector_products(Tensor[] weights, Tensor[] grids, Tensor x) -> Tensor");
    library.def("vector_attention(Tensor q, Tensor k, Tensor v, Tensor mask) -> Tensor");
}

TORCH_LIBRARY_IMPL(llama_minimal, CPU, library) {
    library.impl("vector_products", vector_products);
    library.impl("vector_attention", vector_attention);
}
