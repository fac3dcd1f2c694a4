// Products of matrices and one vector. Each number of a matrix is read once and used once, so what counts is to read it
// as fast as memory gives it: rows are shared by the threads, and a row is added up in vector registers.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

using at::Tensor;
using at::TensorList;

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

float one(float w) { return w; }
float one(int8_t w) { return w; }

float one(uint16_t w) {
    const uint32_t wide = uint32_t(w) << 16;
    float out;
    std::memcpy(&out, &wide, sizeof out);
    return out;
}

template <typename Lanes>
Lanes as(const float* x) {
    Lanes out;
    std::memcpy(&out, x, sizeof out);
    return out;
}

template <typename Lanes>
float total(Lanes x) {
    float out = 0;
    for (size_t i = 0; i < sizeof(Lanes) / sizeof(float); i++) out += x[i];
    return out;
}

// Two sums at a time: an addition need not wait for the one before.
template <typename W>
float sum_of_row(const W* w, const float* x, int64_t n_in) {
    Floats even = {}, odd = {};
    int64_t i = 0;
    for (; i + 2 * N <= n_in; i += 2 * N) {
        even += load(w + i) * load(x + i);
        odd += load(w + i + N) * load(x + i + N);
    }
    float sum = total(even + odd);
    for (; i < n_in; i++) sum += one(w[i]) * x[i];
    return sum;
}

template <typename W>
std::vector<const W*> addresses(TensorList tensors) {
    std::vector<const W*> out;
    for (const Tensor& tensor : tensors) out.push_back(static_cast<const W*>(tensor.const_data_ptr()));
    return out;
}

// Return row(m, r) of every row r of every matrix m, one behind the other. No thread waits before the last matrix.
template <typename Row>
Tensor each_row(TensorList weights, const Tensor& x, Row row) {
    int64_t n_rows = 0;
    for (const Tensor& w : weights) n_rows += w.size(0);
    Tensor out = at::empty({n_rows}, x.options());
    float* const first = out.mutable_data_ptr<float>();
    const int64_t n_matrices = weights.size();
#pragma omp parallel num_threads(at::get_num_threads())
    {
        float* next = first;
        for (int64_t m = 0; m < n_matrices; m++) {
            const int64_t n = weights[m].size(0);
#pragma omp for schedule(static) nowait
            for (int64_t r = 0; r < n; r++) next[r] = row(m, r);
            next += n;
        }
    }
    return out;
}

template <typename W>
Tensor products(TensorList weights, const Tensor& x) {
    const auto w = addresses<W>(weights);
    const float* const vector = x.const_data_ptr<float>();
    const int64_t n_in = x.size(0);
    return each_row(weights, x, [&](int64_t m, int64_t r) { return sum_of_row(w[m] + r * n_in, vector, n_in); });
}

// w = scale · code; grids: a scale for each row, (out,).
Tensor int8_products(TensorList weights, TensorList grids, const Tensor& x) {
    const auto w = addresses<int8_t>(weights);
    const auto scales = addresses<float>(grids);
    const float* const vector = x.const_data_ptr<float>();
    const int64_t n_in = x.size(0);
    return each_row(weights, x, [&](int64_t m, int64_t r) {
        return scales[m][r] * sum_of_row(w[m] + r * n_in, vector, n_in);
    });
}

constexpr int64_t BLOCK = 2 * N;

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
            for (int64_t half = N; half > 0; half /= 2)
                for (int64_t i = 0; i < half; i++) sizes[i] = sizes[i] > sizes[i + half] ? sizes[i] : sizes[i + half];
            const float scale = sizes[0] > 1e-30f ? 32767 / sizes[0] : 0;
            steps[b] = sizes[0] / 32767;
            sums[b] = total(load(own) + load(own + N));
            int16_t whole[BLOCK];
            for (int64_t i = 0; i < BLOCK; i++) whole[i] = int16_t(own[i] * scale + std::copysign(0.5f, own[i]));
            for (int64_t i = 0; i < N; i++) numbers[b * BLOCK + i] = whole[2 * i];
            for (int64_t i = 0; i < N; i++) numbers[b * BLOCK + N + i] = whole[2 * i + 1];
        }
    }

    Lanes times(const uint8_t* bytes, int64_t b, float step) const {
        const __m256i* x = reinterpret_cast<const __m256i*>(numbers.data() + b * BLOCK);
        const __m256i two = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
        const __m256i even = _mm256_madd_epi16(_mm256_and_si256(two, _mm256_set1_epi16(15)), _mm256_loadu_si256(x));
        const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(two, 4), _mm256_loadu_si256(x + 1));
        return (Lanes)_mm256_cvtepi32_ps(_mm256_add_epi32(even, odd)) * (step * steps[b]);
    }
};
#else
struct Blocks {
    std::vector<float> numbers, sums;
    typedef Floats Lanes;

    Blocks(const float* x, int64_t n) : numbers(n), sums(n / BLOCK) {
        for (int64_t i = 0; i < n; i++) numbers[i / BLOCK * BLOCK + i % 2 * N + i % BLOCK / 2] = x[i];
        for (int64_t i = 0; i < n; i++) sums[i / BLOCK] += x[i];
    }

    Lanes times(const uint8_t* bytes, int64_t b, float step) const {
        const float* x = numbers.data() + b * BLOCK;
        const Ints two = __builtin_convertvector(*reinterpret_cast<const Pairs*>(bytes), Ints);
        return (__builtin_convertvector(two & 15, Floats) * load(x) +
                __builtin_convertvector(two >> 4, Floats) * load(x + N)) * step;
    }
};
#endif

// Two neighbors a byte, (out, in / 2), w = step · code + offset. A group of g numbers has one step and one offset:
// grids (out, 2, in / g), first the steps. g is a multiple of 32, and in one of g.
Tensor int4_products(TensorList weights, TensorList grids, const Tensor& x) {
    const auto w = addresses<uint8_t>(weights);
    const auto steps = addresses<float>(grids);
    const float* const vector = x.const_data_ptr<float>();
    const int64_t n_in = x.size(0), n_groups = grids[0].size(2), n_blocks = n_in / n_groups / BLOCK;
    const Blocks blocks(vector, n_in);
    std::vector<float> sums(n_groups);
    for (int64_t b = 0; b < n_in / BLOCK; b++) sums[b / n_blocks] += blocks.sums[b];
    return each_row(weights, x, [&](int64_t m, int64_t r) {
        const uint8_t* bytes = w[m] + r * n_in / 2;
        const float* grid = steps[m] + r * n_groups * 2;
        Blocks::Lanes lanes = {};
        for (int64_t b = 0, group = 0, left = n_blocks; b < n_in / BLOCK; b++) {
            lanes += blocks.times(bytes + b * BLOCK / 2, b, grid[group]);
            if (--left == 0) group++, left = n_blocks;
        }
        constexpr int64_t L = sizeof lanes / sizeof(float);
        const float *const offsets = grid + n_groups, *const totals = sums.data();
        int64_t i = 0;
        for (; i + L <= n_groups; i += L) lanes += as<Blocks::Lanes>(offsets + i) * as<Blocks::Lanes>(totals + i);
        float out = total(lanes);
        for (; i < n_groups; i++) out += offsets[i] * totals[i];
        return out;
    });
}

// What the arguments are stands with ``native.vector_products``.
Tensor vector_products(TensorList weights, TensorList grids, const Tensor& x) {
    const Tensor vector = x.contiguous();
    switch (weights[0].scalar_type()) {
        case at::kFloat: return products<float>(weights, vector);
        case at::kBFloat16: return products<uint16_t>(weights, vector);
        case at::kChar: return int8_products(weights, grids, vector);
        case at::kByte: return int4_products(weights, grids, vector);
        default: TORCH_CHECK(false, "weights must be float32, bfloat16, int8 or uint8");
    }
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(llama_minimal, library) {
    library.def("vector_products(Tensor[] weights, Tensor[] grids, Tensor x) -> Tensor");
}

TORCH_LIBRARY_IMPL(llama_minimal, CPU, library) { library.impl("vector_products", vector_products); }
