// Attention of one query a head. What counts is to read no key and no value that nobody sees: a cache has slots for all
// tokens that are to come.

#pragma once

#include <ATen/ops/empty.h>

#include <cmath>
#include <limits>
#include <vector>

#include "vectors.h"

namespace {

constexpr float NOTHING = -std::numeric_limits<float>::infinity();

// e^x of numbers that are not above 0: 2^n e^r with a whole n and |r| ≤ ln(2)/2, e^r by its series.
Floats exponentials(Floats x) {
    typedef int32_t Ints __attribute__((vector_size(4 * N)));
    const Floats near = x > -87.f ? x : Floats{} - 87.f;  // below, 0; NaN stays in x
    const Ints n = __builtin_convertvector(near * 1.44269504f - 0.5f, Ints);
    const Floats wide = __builtin_convertvector(n, Floats), r = (x - wide * 0.693359375f) + wide * 2.12194440e-4f;
    Floats out = Floats{} + 1 / 5040.f;
    for (const float c : {1 / 720.f, 1 / 120.f, 1 / 24.f, 1 / 6.f, 1 / 2.f, 1.f, 1.f}) out = out * r + c;
    out *= (Floats)((n + 127) << 23);
    return x < -87.f ? Floats{} : out;
}

// Turn n scores, and what is beyond them up to a multiple of N, into weights whose sum is 1.
void softmax(float* scores, int64_t n) {
    for (int64_t s = n; s % N; s++) scores[s] = NOTHING;
    Floats most = as<Floats>(scores), sums = {};
    for (int64_t s = N; s < n; s += N) most = as<Floats>(scores + s) > most ? as<Floats>(scores + s) : most;
    float largest = most[0];
    for (int64_t i = 1; i < N; i++) largest = most[i] > largest ? most[i] : largest;
    for (int64_t s = 0; s < n; s += N) {
        const Floats weights = exponentials(as<Floats>(scores + s) - largest);
        std::memcpy(scores + s, &weights, sizeof weights);
        sums += weights;
    }
    const float sum = total(sums);
    for (int64_t s = 0; s < n; s++) scores[s] /= sum;
}

// What the arguments are stands with ``native.vector_attention``.
at::Tensor vector_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& mask) {
    const int64_t n_heads = q.size(1), width = q.size(3), n_kv_heads = k.size(1), n_slots = k.size(2);
    const int64_t group = n_heads / n_kv_heads, padded = (n_slots + N - 1) / N * N;
    const at::Tensor out = at::empty(q.sizes(), q.options());
    const at::Tensor each_query = q.contiguous(), each_mask = mask.contiguous();
    const float* const queries = each_query.const_data_ptr<float>();
    const float* const masks = each_mask.const_data_ptr<float>();
    const float scale = 1 / std::sqrt(float(width));
#pragma omp parallel for num_threads(at::get_num_threads())
    for (int64_t i = 0; i < q.size(0) * n_kv_heads; i++) {
        const int64_t b = i / n_kv_heads, h = i % n_kv_heads;
        const float* const keys = k.const_data_ptr<float>() + b * k.stride(0) + h * k.stride(1);
        const float* const values = v.const_data_ptr<float>() + b * v.stride(0) + h * v.stride(1);
        const float* const own_mask = masks + (mask.size(0) == 1 ? 0 : b * n_slots);
        int64_t begin = 0, end = n_slots;
        while (end > 1 && own_mask[end - 1] == NOTHING) end--;
        while (begin + 1 < end && own_mask[begin] == NOTHING) begin++;
        std::vector<float> scores(group * padded);
        in_blocks(begin, end, group, [&]<int S, int V>(int64_t r, int64_t apart, int64_t g) {
            const Sums<S, V> sums =
                sums_of_rows<S, V>(keys + r * width, apart * width, queries + (i * group + g) * width, width);
            for (int s = 0; s < S; s++)
                for (int k = 0; k < V; k++) scores[(g + k) * padded + r + s * apart - begin] = sums[s][k];
        });
        float* __restrict const mixed = out.mutable_data_ptr<float>() + i * group * width;
        for (int64_t j = 0; j < group * width; j++) mixed[j] = 0;
        for (int64_t g = 0; g < group; g++) {
            float* const own = &scores[g * padded];
            for (int64_t s = 0; s < end - begin; s++) own[s] = own[s] * scale + own_mask[begin + s];
            softmax(own, end - begin);
        }
        for (int64_t s = 0; s < end - begin; s++)
            for (int64_t g = 0; g < group; g++) {
                const float weight = scores[g * padded + s];
                const float* __restrict const value = values + (begin + s) * width;
                for (int64_t d = 0; d < width; d++) mixed[g * width + d] += weight * value[d];
            }
    }
    return out;
}

}  // namespace
