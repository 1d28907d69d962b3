// One tile: up to four query rows against a block of keys. A row is one query of one head of the group, so all
// rows of a tile read the same key/value head: each strip of K and V is loaded once for all of them.
//
// Scores stand as [key][row]. With 1, 2 or 4 rows a register then holds whole keys, and a row has its own lanes:
// lane `i` belongs to row `i % ROWS`. Maxima, exponentials and sums need no transposing.
#pragma once

#include <algorithm>
#include <cmath>

#include "vectors.h"

constexpr int LANES = 8;
constexpr float INFINITE = __builtin_inff();

// What the rows of a tile see, and their running softmax.
struct Tile {
    int row, rows;        // the first packed row; 1, 2 or 4 rows, of which the last may be padding
    int64_t first, end;   // keys of the current block that some row sees: none where end <= first
    float* scores;        // [key - first][row], later probabilities
    float maximum[LANES]; // of the logits so far, in units of log2, by lane
    float sum[LANES];     // of 2^(logit - maximum), each lane its own share
};

// tanh within 3 units in the last place, at 0 too: a polynomial below 5/8, where 1 - 2 / (e^2x + 1) cancels.
// Coefficients of the odd polynomial: Cephes, tanhf (Moshier 1989).
inline Vector tanh_of(Vector x) {
    const Vector sign_bit = _mm256_set1_ps(-0.0f), size = _mm256_andnot_ps(sign_bit, x);
    const Vector square = _mm256_mul_ps(x, x);
    Vector odd = _mm256_set1_ps(-5.70498872745e-3f);
    for (const float term : {2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f, -3.33332819422e-1f})
        odd = _mm256_fmadd_ps(odd, square, _mm256_set1_ps(term));
    const Vector small = _mm256_fmadd_ps(_mm256_mul_ps(odd, square), x, x);
    const Vector decay = exp2_of(_mm256_mul_ps(size, _mm256_set1_ps(-2.8853901f)));  // e^(-2 |x|)
    const Vector one = _mm256_set1_ps(1.0f);
    const Vector large = _mm256_div_ps(_mm256_sub_ps(one, decay), _mm256_add_ps(one, decay));
    const Vector is_small = _mm256_cmp_ps(size, _mm256_set1_ps(0.625f), _CMP_LT_OQ);
    return _mm256_blendv_ps(_mm256_or_ps(large, _mm256_and_ps(sign_bit, x)), small, is_small);
}

// Products of ROWS queries with QUADS * 4 / ROWS keys. Keys past `last` are read as `last`.
template <class Loader, int ROWS, int QUADS>
inline void products(const float* q, const typename Loader::Element* keys, int64_t stride, int64_t last, int head_dim,
                     int padded_dim, float* scores) {
    constexpr int KEYS = QUADS * 4 / ROWS;
    const typename Loader::Element* key[KEYS];
    for (int c = 0; c < KEYS; ++c) key[c] = keys + std::min<int64_t>(c, last) * stride;
    Vector sums[KEYS][ROWS];
    for (int c = 0; c < KEYS; ++c)
        for (int r = 0; r < ROWS; ++r) sums[c][r] = _mm256_setzero_ps();
    const auto add_strip = [&](int d, auto load) __attribute__((always_inline)) {
        Strip strip[KEYS];
#pragma GCC unroll 8
        for (int c = 0; c < KEYS; ++c) strip[c] = load(key[c] + d);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) {
            const Vector low = _mm256_loadu_ps(q + r * padded_dim + d);
#pragma GCC unroll 8
            for (int c = 0; c < KEYS; ++c) sums[c][r] = _mm256_fmadd_ps(strip[c].low, low, sums[c][r]);
        }
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) {
            const Vector high = _mm256_loadu_ps(q + r * padded_dim + d + 8);
#pragma GCC unroll 8
            for (int c = 0; c < KEYS; ++c) sums[c][r] = _mm256_fmadd_ps(strip[c].high, high, sums[c][r]);
        }
    };
    const int whole = head_dim / STRIP * STRIP;
    for (int d = 0; d < whole; d += STRIP) add_strip(d, Loader::load);
    if (whole < head_dim)
        add_strip(whole, [&](const typename Loader::Element* x) { return load_part<Loader>(x, head_dim - whole); });
    const Vector* flat = &sums[0][0];
#pragma GCC unroll 4
    for (int quad = 0; quad < QUADS; ++quad)
        _mm_storeu_ps(scores + 4 * quad,
                      sums_of(flat[4 * quad], flat[4 * quad + 1], flat[4 * quad + 2], flat[4 * quad + 3]));
}

// output[row] += sum over keys of probability * value, for STRIPS strips of the head from dimension `d` on.
template <class Loader, int ROWS, int STRIPS, class Load>
inline void accumulate(const Tile& tile, const typename Loader::Element* values, int64_t stride, int padded_dim, int d,
                       float* output, Load load) {
    Vector sums[ROWS][STRIPS][2];
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int s = 0; s < STRIPS; ++s)
#pragma GCC unroll 2
            for (int half = 0; half < 2; ++half)
                sums[r][s][half] = _mm256_loadu_ps(output + r * padded_dim + d + s * STRIP + half * 8);
    const float* probability = tile.scores;
    const int64_t num_keys = tile.end - tile.first;
    values += d;
    for (int64_t key = 0; key < num_keys; ++key, values += stride, probability += ROWS) {
        Vector weight[ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) weight[r] = _mm256_broadcast_ss(probability + r);
#pragma GCC unroll 4
        for (int s = 0; s < STRIPS; ++s) {
            const Strip strip = load(values + s * STRIP);
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; ++r) {
                sums[r][s][0] = _mm256_fmadd_ps(weight[r], strip.low, sums[r][s][0]);
                sums[r][s][1] = _mm256_fmadd_ps(weight[r], strip.high, sums[r][s][1]);
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int s = 0; s < STRIPS; ++s)
#pragma GCC unroll 2
            for (int half = 0; half < 2; ++half)
                _mm256_storeu_ps(output + r * padded_dim + d + s * STRIP + half * 8, sums[r][s][half]);
}

// The largest lane of each row, in all lanes of that row.
template <int ROWS>
inline Vector row_maximum(Vector x) {
    x = _mm256_max_ps(x, _mm256_permute2f128_ps(x, x, 1));
    if (ROWS <= 2) x = _mm256_max_ps(x, _mm256_permute_ps(x, 0x4e));
    if (ROWS == 1) x = _mm256_max_ps(x, _mm256_permute_ps(x, 0xb1));
    return x;
}

// The soft cap: logits stand divided by the cap, and become those of the softmax in units of log2.
inline void cap_logits(float* scores, int num_vectors, float cap_log2) {
    for (int i = 0; i < num_vectors; ++i) {
        const Vector capped = tanh_of(_mm256_loadu_ps(scores + i * LANES));
        _mm256_storeu_ps(scores + i * LANES, _mm256_mul_ps(capped, _mm256_set1_ps(cap_log2)));
    }
}

// Turns a tile's logits into probabilities, relative to the new maximum, and scales what was summed before.
template <int ROWS>
inline void advance_softmax(Tile& tile, int num_vectors, float* output, int padded_dim) {
    const Vector before = _mm256_loadu_ps(tile.maximum);
    Vector maximum = before;
    // The second operand is what remains of a NaN: the maximum stays a number, and the sum becomes NaN.
    for (int i = 0; i < num_vectors; ++i) maximum = _mm256_max_ps(_mm256_loadu_ps(tile.scores + i * LANES), maximum);
    maximum = row_maximum<ROWS>(maximum);
    // A row that has seen no key yet has the maximum -inf, from which nothing can be subtracted.
    const Vector shift = _mm256_and_ps(maximum, _mm256_cmp_ps(maximum, _mm256_set1_ps(-INFINITE), _CMP_NEQ_OQ));
    Vector sum = _mm256_loadu_ps(tile.sum);
    if (_mm256_movemask_ps(_mm256_cmp_ps(before, maximum, _CMP_NEQ_OQ)) != 0) {
        const Vector factors = exp2_of(_mm256_sub_ps(before, shift));
        sum = _mm256_mul_ps(sum, factors);
        float factor[LANES];
        _mm256_storeu_ps(factor, factors);
        for (int r = 0; r < ROWS; ++r)
            for (int d = 0; d < padded_dim; d += LANES) {
                float* place = output + r * padded_dim + d;
                _mm256_storeu_ps(place, _mm256_mul_ps(_mm256_loadu_ps(place), _mm256_set1_ps(factor[r])));
            }
        _mm256_storeu_ps(tile.maximum, maximum);
    }
    for (int i = 0; i < num_vectors; ++i) {
        const Vector weight = exp2_of(_mm256_sub_ps(_mm256_loadu_ps(tile.scores + i * LANES), shift));
        _mm256_storeu_ps(tile.scores + i * LANES, weight);
        sum = _mm256_add_ps(sum, weight);
    }
    _mm256_storeu_ps(tile.sum, sum);
}
