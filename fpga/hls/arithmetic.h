// The integer arithmetic of docs/numerics.md. All intermediate values are 64-bit two's complement, which wraps.
#ifndef AXLORA_ARITHMETIC_H
#define AXLORA_ARITHMETIC_H

#include <stdint.h>

// Signed overflow is undefined in C++, so what may wrap is computed unsigned.
inline int64_t add64(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }
inline int64_t subtract64(int64_t a, int64_t b) { return (int64_t)((uint64_t)a - (uint64_t)b); }
inline int64_t multiply64(int64_t a, int64_t b) { return (int64_t)((uint64_t)a * (uint64_t)b); }
inline int64_t left64(int64_t a, int shift) { return (int64_t)((uint64_t)a << shift); }

// v / 2^shift rounded half to even; shift 0..63. >> of a negative number is arithmetic in g++, clang and Vitis.
inline int64_t round_shift(int64_t v, int shift) {
  const int64_t floor = v >> shift;
  const uint64_t rest = (uint64_t)v - ((uint64_t)floor << shift);
  const uint64_t half = shift ? (uint64_t)1 << (shift - 1) : 0;
  const bool up = shift && (rest > half || (rest == half && (floor & 1)));
  return floor + up;
}

inline int64_t clamp64(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }

// Symmetric, so that the magnitude fits 31 bits.
inline int64_t saturate32(int64_t v) { return clamp64(v, -(((int64_t)1 << 31) - 1), ((int64_t)1 << 31) - 1); }

// saturate32 that notes whether it changed the value.
inline int64_t saturated32(int64_t v, bool &changed) {
  const int64_t held = saturate32(v);
  changed |= held != v;
  return held;
}

inline int64_t magnitude64(int64_t v) { return v < 0 ? -v : v; }

// The `bits` low bits of a word as a signed number.
inline int64_t signed_bits(uint32_t word, int bits) {
  const int64_t value = word & (((uint64_t)1 << bits) - 1);
  return value >> (bits - 1) ? value - ((int64_t)1 << bits) : value;
}

// Bits of a number that is not negative; 0 for 0.
inline int bit_length(uint64_t v) {
  int length = 0;
  for (int bit = 0; bit < 64; bit++) {
#pragma HLS UNROLL
    if (v >> bit & 1) length = bit + 1;
  }
  return length;
}

// floor(sqrt(v)), a bit a step.
inline uint32_t square_root(uint64_t v) {
  uint64_t root = 0;
  for (int bit = 31; bit >= 0; bit--) {
#pragma HLS PIPELINE
    const uint64_t tried = root | (uint64_t)1 << bit;
    if (tried * tried <= v) root = tried;
  }
  return (uint32_t)root;
}

#endif
