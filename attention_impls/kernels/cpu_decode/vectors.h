// Eight floats in an AVX2 register, and how each cache dtype becomes such registers.
//
// A strip is 16 neighbouring dimensions of one key or value: two registers. Loaders may keep its elements in an
// order of their own, so long as queries, keys, values and outputs all use it: `place` says where element `i` of
// a strip stands. Strips are loaded in place and widened in registers; only the strip at the end of a head_dim
// that is no multiple of 16 is first copied, with zeros behind it.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

constexpr int STRIP = 16;

using Vector = __m256;

struct Strip {
    Vector low, high;
};

struct Float32 {
    using Element = float;
    static int place(int i) { return i; }
    static Strip load(const float* x) { return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}; }
    static float widen(float x) { return x; }
    static float narrow(float x) { return x; }
};

// A bfloat16 is the upper half of a float32. One register holds 16 of them: its even elements are shifted up, its
// odd ones masked, two instructions for a strip. So the even elements of a strip come first, then the odd ones.
struct Bfloat16 {
    using Element = uint16_t;
    static int place(int i) { return i / 2 + (i % 2) * 8; }
    static Strip load(const uint16_t* x) {
        const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
        const __m256i odd = _mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u)));
        return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)), _mm256_castsi256_ps(odd)};
    }
    static float widen(uint16_t x) {
        const uint32_t bits = static_cast<uint32_t>(x) << 16;
        float value;
        std::memcpy(&value, &bits, 4);
        return value;
    }
    static uint16_t narrow(float x) {  // to nearest, ties to even; outputs are finite, or NaN from NaN inputs
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        if (x != x) return 0x7fc0;
        return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
};

struct Float16 {
    using Element = uint16_t;
    static int place(int i) { return i; }
    static Strip load(const uint16_t* x) {
        const auto* halves = reinterpret_cast<const __m128i*>(x);
        return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
    }
    static float widen(uint16_t x) { return _cvtsh_ss(x); }
    static uint16_t narrow(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
};

struct Int8 {
    using Element = int8_t;
    static int place(int i) { return i; }
    static Strip load(const int8_t* x) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
        return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
    }
};

// The strip at `x`, of which only the first `count` elements belong to the head.
template <class Loader>
inline Strip load_part(const typename Loader::Element* x, int count) {
    typename Loader::Element padded[STRIP] = {};
    std::memcpy(padded, x, sizeof(padded[0]) * count);
    return Loader::load(padded);
}

// The sums of four registers, in the order of the registers.
inline __m128 sums_of(Vector a, Vector b, Vector c, Vector d) {
    const Vector ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));  // a b a b
    const Vector cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const Vector abcd = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    return _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
}

// 2^x for x <= 0, within 2 units in the last place; 0 below -126, and for -inf; NaN for NaN, which the second
// operand of a maximum and the comparison let through.
inline Vector exp2_of(Vector x) {
    const Vector rounded =
        _mm256_round_ps(_mm256_max_ps(_mm256_set1_ps(-127.0f), x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Vector rest = _mm256_max_ps(_mm256_set1_ps(-0.5f), _mm256_sub_ps(x, rounded));
    // Taylor series of e^(rest ln 2), |rest| <= 1/2: the first term left out is below 2^-27.
    Vector power = _mm256_set1_ps(1.5252734e-5f);
    for (const float term : {1.5403530e-4f, 1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f})
        power = _mm256_fmadd_ps(power, rest, _mm256_set1_ps(term));
    const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(rounded), _mm256_set1_epi32(127)), 23);
    const Vector value = _mm256_mul_ps(power, _mm256_castsi256_ps(exponent));
    return _mm256_and_ps(value, _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_NLT_UQ));
}
