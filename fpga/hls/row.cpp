// VROW: a row's reduction becomes a scalar that SCALE multiplies by: itself, 1/u or 1/sqrt(u); TOKEN makes a token's
// scale.
#include "arithmetic.h"
#include "units.h"

struct Scalar {
  int32_t factor, value;
  int shift, token_shift;
  uint32_t mantissa;
};

static Scalar scalar_of(uint32_t function, int64_t v, int64_t adjust, int64_t token) {
  Scalar s;
  s.value = (int32_t)saturate32(v);
  s.factor = s.value;
  s.shift = 0;
  s.mantissa = 0;
  s.token_shift = 1;
  if (function == AX_ROW_COPY) return s;
  const uint64_t u = v < 1 ? 1 : (uint64_t)v;
  const int length = bit_length(u);
  int k;
  uint64_t n;
  if (function == AX_ROW_RSQRT) {
    k = (64 - length) / 2;
    n = square_root(u << 2 * k);
  } else {
    k = 32 - length;
    n = k >= 0 ? u << k : u >> -k;
  }
  if (function == AX_ROW_TOKEN) {
    uint32_t mantissa = (uint32_t)((n + (1 << 15)) >> 16);
    if (mantissa == 1 << 16) {
      mantissa = 1 << 15;
      k--;
    }
    s.mantissa = mantissa;
    n = (uint64_t)mantissa << 16;
  }
  s.factor = (int32_t)((((uint64_t)1 << 62) - 1) / n);
  s.shift = (int)clamp64(62 - k - adjust, 0, 63);
  s.token_shift = (int)clamp64(k + token - 16, 1, 62);
  return s;
}

stop_t row_scalars(const Instruction &i, Buffers &buffers, Vector &vector) {
  const uint32_t function = i.sub, rows = AX_FIELD(i.misc, VROW_ROWS) + 1, place = AX_FIELD(i.misc, VROW_SCALAR);
  const bool token = function == AX_ROW_TOKEN;
  const uint32_t added = AX_FIELD(i.x, VROW_ADD);
  if (token && added + rows > AX_TBUF_TOKENS) return AX_ERR_LOCAL_ADDRESS;
  if (AX_FIELD(i.misc, VROW_WRITE) && i.y + rows > AX_OBUF_BEATS) return AX_ERR_LOCAL_ADDRESS;
  for (uint32_t r = 0; r < rows; r++) {
    const int64_t product = multiply64(vector.reduced[r], AX_FIELD(i.x, VROW_FACTOR));
    const int64_t scaled = round_shift(product, AX_FIELD(i.z, VROW_SHIFT));
    const int64_t v = add64(scaled, token ? 0 : added);
    const Scalar s = scalar_of(function, v, signed_bits(AX_FIELD(i.z, VROW_ADJUST), 8), signed_bits(i.y & 255, 8));
    vector.factor[place][r] = s.factor;
    vector.shift[place][r] = s.shift;
    if (token) buffers.row_scale[added + r] = s.mantissa << 16 | (uint32_t)s.token_shift << 10;
    if (AX_FIELD(i.misc, VROW_WRITE)) {
      for (int byte = 0; byte < AX_BEAT_BYTES; byte += 4) {
#pragma HLS UNROLL
        put_obuf(buffers, (i.y + r) * AX_BEAT_BYTES + byte, 4, s.value);
      }
    }
  }
  return AX_ERR_NONE;
}
