// The machine's memories and settings. One static instance (machine.cpp): zero at power-up, kept from start to start.
#ifndef AXLORA_STATE_H
#define AXLORA_STATE_H

#include "types.h"

// The buffers of docs/isa.md, Memories.
struct Buffers {
  uint8_t wbuf[AX_WBUF_LINES][AX_LANES][AX_PORTS];
  act_t abuf[AX_ABUF_LINES][AX_TOKENS][AX_LANES];
  act_t ubuf[AX_UBUF_LINES][AX_TOKENS][AX_LANES];
  acc_t acc[AX_ACC_WORDS][AX_TOKENS][AX_PORTS];
  uint32_t pbuf[AX_PBUF_GROUPS * AX_PORTS][2];       // a record: bias; m1, then shift or m2
  uint32_t tbuf[AX_TBUF_TOKENS];                     // slot, shift, mantissa
  uint8_t exponent[AX_TBUF_TOKENS];                  // e_u
  uint32_t row_scale[AX_TBUF_TOKENS];                // as tbuf, written by VROW
  uint8_t sbuf[AX_SBUF_LINES][SBUF_LINE_BYTES];
  uint8_t obuf[AX_OBUF_BEATS][AX_BEAT_BYTES];
  int32_t cbuf[AX_CBUF_WORDS][AX_VECTOR_LANES];
  int32_t vbuf[AX_VBUF_WORDS][AX_VECTOR_LANES];
  uint32_t table[AX_TABLE_ENTRIES][2];               // base, slope
};

// An entry of the segment table: SEGW and SEGA.
struct Segment {
  ap_uint<4> format, slot;
  uint16_t line, groups, block_stride, group_stride;
  uint16_t acc, scale_line, scale_stride;
  bool scaled, sums;
};

struct Matrix {
  Segment segments[AX_SEGMENTS];
  int8_t codebook[16];
  acc_t group[AX_GROUP_WORDS][AX_TOKENS][AX_PORTS];
};

struct Vector {
  Instruction vcfg, vout, vlen, vpitch, vbank, vcon, vtab;
  int64_t reduced[AX_ROWS];                          // R
  int32_t factor[AX_SCALARS][AX_ROWS];
  uint8_t shift[AX_SCALARS][AX_ROWS];
};

struct Store {
  Instruction spitch;
};

struct Machine {
  Buffers buffers;
  Matrix matrix;
  Vector vector;
  Store store;
};

#endif
