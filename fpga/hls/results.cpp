// Where the vector unit's elements go: UBUF, OBUF, VBUF.
#include "units.h"

// Element of a region of one token group, [block][token][lane].
uint32_t region_element(uint32_t row, uint32_t column) {
#pragma HLS INLINE
  return (column / AX_LANES * AX_TOKENS + row) * AX_LANES + column % AX_LANES;
}

bool put_ubuf(Buffers &buffers, uint32_t line, uint32_t row, uint32_t column, int64_t code) {
#pragma HLS INLINE
  const uint32_t at = line + column / AX_LANES;
  if (at >= AX_UBUF_LINES) return false;
  buffers.ubuf[at][row][column % AX_LANES] = code;
  return true;
}

// An element of 1, 2 or 4 bytes, low byte first. An element never crosses a beat.
bool put_obuf(Buffers &buffers, uint32_t byte, int bytes, int64_t code) {
#pragma HLS INLINE
  if (byte + bytes > OBUF_BYTES) return false;
  for (int k = 0; k < 4; k++) {
#pragma HLS UNROLL
    if (k < bytes) buffers.obuf[byte / AX_BEAT_BYTES][byte % AX_BEAT_BYTES + k] = (uint8_t)((uint64_t)code >> 8 * k);
  }
  return true;
}

bool put_vbuf(Buffers &buffers, uint32_t word, uint32_t column, int64_t code) {
#pragma HLS INLINE
  const uint32_t at = word + column / AX_VECTOR_LANES;
  if (at >= AX_VBUF_WORDS) return false;
  buffers.vbuf[at][column % AX_VECTOR_LANES] = (int32_t)code;
  return true;
}
