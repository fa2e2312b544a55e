// Types of the machine, with the widths of the target (axlora_target.h), and what every unit shares.
#ifndef AXLORA_TYPES_H
#define AXLORA_TYPES_H

#include <ap_int.h>
#include <stdint.h>

#include "axlora_isa.h"
#include "axlora_target.h"

// Where a width is 8, 16, 32 or 64 bits whatever the target, the types are C's: the same hardware, simulated faster.
typedef ap_uint<8 * AX_BEAT_BYTES> beat_t;            // of memory
typedef ap_int<AX_ACTIVATION_BITS> act_t;             // an activation
typedef ap_int<AX_ACCUMULATOR_BITS> acc_t;            // wraps, as an accumulator does
typedef ap_int<AX_ACTIVATION_BITS + 8> product_t;     // of an activation and a code's magnitude (up to 255)
typedef ap_uint<AX_TOKENS> mask_t;                    // a bit a token
typedef ap_uint<33> count_t;                          // beats of a transfer: misc * Z
typedef ap_uint<4> stop_t;                            // AX_ERR_*

// Depths in beats, where LOAD and STORE count in them.
enum {
  WBUF_LINE_BYTES = AX_LANES * AX_PORTS,
  WBUF_BEATS = AX_WBUF_LINES * WBUF_LINE_BYTES / AX_BEAT_BYTES,
  ELEMENT_BYTES = AX_ACTIVATION_BITS / 8,
  ABUF_BEATS = AX_ABUF_LINES * AX_LANES * AX_TOKENS * ELEMENT_BYTES / AX_BEAT_BYTES,
  RECORD_BYTES = 8,
  PBUF_BEATS = AX_PBUF_GROUPS * AX_PORTS * RECORD_BYTES / AX_BEAT_BYTES,
  TBUF_BEATS = AX_TBUF_TOKENS * 4 / AX_BEAT_BYTES,
  SBUF_LINE_BYTES = 2 * AX_PORTS > AX_BEAT_BYTES ? 2 * AX_PORTS : AX_BEAT_BYTES,
  SBUF_BEATS = AX_SBUF_LINES * SBUF_LINE_BYTES / AX_BEAT_BYTES,
  CBUF_BEATS = AX_CBUF_WORDS * AX_VECTOR_LANES * 4 / AX_BEAT_BYTES,
  FBUF_BEATS = AX_TABLE_ENTRIES * RECORD_BYTES / AX_BEAT_BYTES,
  OBUF_BYTES = AX_OBUF_BEATS * AX_BEAT_BYTES
};

// An instruction with its registers added in.
struct Instruction {
  ap_uint<3> unit;
  ap_uint<6> opcode, sub;
  ap_uint<17> misc;
  uint32_t x;
  uint16_t y, z;
};

struct Counters {
  uint64_t value[AX_COUNTERS];
};

// Fields of 32 bits are whole words and not taken with this.
inline uint32_t field(uint32_t word, int low, int bits) { return (word >> low) & ((1u << bits) - 1); }

// A named field of docs/isa.md: AX_FIELD(i.misc, MATMUL_TOKENS).
#define AX_FIELD(word, name) field(word, AX_##name##_LOW, AX_##name##_BITS)

#endif
