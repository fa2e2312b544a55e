// Bits to fields, and every encoding that the machine refuses (docs/isa.md, Errors).
#include "units.h"

static const uint8_t UNIT_OF[64] = AX_UNIT_OF;      // of an opcode; AX_UNIT_UNKNOWN
static const uint8_t SUB_MAX[64] = AX_SUB_MAX;
static const uint8_t MISC_BITS[64] = AX_MISC_BITS;

// As encoded, before registers are added.
struct Raw {
  ap_uint<6> opcode, sub;
  ap_uint<5> wait[2], post[2], rx, ry, rz;
  ap_uint<17> misc;
  uint32_t x;
  uint16_t y, z;
};

#define WORD_FIELD(name) word.range(AX_WORD_##name##_LOW + AX_WORD_##name##_BITS - 1, AX_WORD_##name##_LOW)

static Raw split(ap_uint<128> word) {
  Raw raw;
  raw.opcode = WORD_FIELD(OP);
  raw.wait[0] = WORD_FIELD(WAIT_A);
  raw.wait[1] = WORD_FIELD(WAIT_B);
  raw.post[0] = WORD_FIELD(POST_A);
  raw.post[1] = WORD_FIELD(POST_B);
  raw.sub = WORD_FIELD(SUB);
  raw.rx = WORD_FIELD(RX);
  raw.ry = WORD_FIELD(RY);
  raw.rz = WORD_FIELD(RZ);
  raw.misc = WORD_FIELD(MISC);
  raw.x = (uint32_t)WORD_FIELD(X);
  raw.y = (uint16_t)WORD_FIELD(Y);
  raw.z = (uint16_t)WORD_FIELD(Z);
  return raw;
}

// Two semaphore fields: bit 4 valid, the second only with the first, and not the same twice.
static bool good_pair(const ap_uint<5> pair[2]) {
  for (int k = 0; k < 2; k++) {
#pragma HLS UNROLL
    if (pair[k] != 0 && !pair[k][4]) return false;
  }
  return pair[1] == 0 || (pair[0] != 0 && pair[0] != pair[1]);
}

static bool good_semaphores(const Raw &raw, int unit) {
  if (!good_pair(raw.wait) || !good_pair(raw.post)) return false;
  for (int k = 0; k < 2; k++) {
#pragma HLS UNROLL
    // Four semaphores a unit, from load on: number / 4 + 1 is the unit that may post it.
    if (raw.post[k] != 0 && (raw.post[k] & 15) / 4 + AX_UNIT_LOAD != unit) return false;
  }
  return unit != AX_UNIT_FETCH || (raw.wait[0] == 0 && raw.post[0] == 0);
}

static bool good_rows(const Raw &raw) {
  switch (raw.opcode) {
    case AX_OP_VMAP: {
      const uint32_t into = AX_FIELD(raw.misc, VMAP_INTO), size = AX_FIELD(raw.misc, VMAP_SIZE);
      if (size == 3 || (into == AX_INTO_VBUF && size != 2) || (into == AX_INTO_NOTHING && size)) return false;
      return !AX_FIELD(raw.misc, VMAP_TILED) || (into == AX_INTO_OBUF && size == 0);
    }
    case AX_OP_VROW:
      if (raw.rz != 0 || raw.z >> 14) return false;
      return raw.sub != AX_ROW_TOKEN || (raw.ry == 0 && !AX_FIELD(raw.misc, VROW_WRITE) && raw.y >> 8 == 0);
    case AX_OP_VLEN: return raw.y == 0 && raw.z == 0 && raw.ry == 0 && raw.rz == 0;
    case AX_OP_VPITCH:
    case AX_OP_VBANK:
    case AX_OP_SPITCH: return raw.z == 0 && raw.rz == 0;
    case AX_OP_VCON: return raw.rx == 0 && raw.ry == 0 && raw.rz == 0 && raw.z == 0 && raw.y >> 6 == 0;
    case AX_OP_VTAB: return raw.rx == 0 && raw.ry == 0 && raw.rz == 0 && AX_FIELD(raw.misc, VTAB_STEP) < 32;
    default: return true;
  }
}

static bool good_fields(const Raw &raw) {
  const bool registers = raw.rx != 0 || raw.ry != 0 || raw.rz != 0;
  switch (raw.opcode) {
    case AX_OP_HALT:
    case AX_OP_ENDLOOP: return !registers && raw.x == 0 && raw.y == 0 && raw.z == 0;
    case AX_OP_SET: return raw.misc >= 1 && raw.misc <= 7 && raw.y == 0 && raw.z == 0 && raw.ry == 0 && raw.rz == 0;
    case AX_OP_WINDOW: return raw.y == 0 && raw.z == 0 && raw.ry == 0 && raw.rz == 0;
    case AX_OP_LOOP: return raw.x == 0 && raw.rx == 0 && raw.ry == 0 && raw.y != 0;
    case AX_OP_CODEBOOK: return !registers;
    case AX_OP_SEGW: return AX_FIELD(raw.misc, SEGW_FORMAT) <= AX_FMT_CB4 && AX_FIELD(raw.misc, SEGW_SLOT) <= AX_SLOTS;
    case AX_OP_SEGA: return raw.x >> 16 == 0 && (!AX_FIELD(raw.misc, SEGA_SUMS) || AX_FIELD(raw.misc, SEGA_SCALED));
    case AX_OP_MATMUL: return raw.sub != 0;
    case AX_OP_VOUT: {
      const uint32_t size = AX_FIELD(raw.misc, VOUT_SIZE);
      if (registers || raw.x >> 16 || raw.y || raw.z || size == 3) return false;
      return !AX_FIELD(raw.misc, VOUT_VBUF) || (!AX_FIELD(raw.misc, VOUT_UBUF) && size == 2);
    }
    case AX_OP_VQT: return AX_FIELD(raw.misc, VQT_SLOT) <= AX_SLOTS;
    default: return good_rows(raw);
  }
}

// What depends on registers, or on the target.
static bool good_resolved(const Instruction &i) {
  switch (i.opcode) {
    case AX_OP_WINDOW: return i.x < AX_WINDOWS;
    case AX_OP_LOAD:
      return i.x % AX_BEAT_BYTES == 0 && (i.sub != AX_BUF_WKEY || AX_BEAT_BYTES <= AX_LANES);
    case AX_OP_STORE: {
      if (i.sub == 0) return i.x % AX_BEAT_BYTES == 0;
      const uint32_t bytes = 1u << (i.sub - 1);
      return i.x % bytes == 0 && bytes <= AX_BEAT_BYTES;
    }
    case AX_OP_SEGW:
      return AX_FIELD(i.misc, SEGW_FORMAT) != AX_FMT_U8 || AX_ENGINE != AX_ENGINE_REUSE || AX_INDEX_ENTRIES == 256;
    case AX_OP_SEGA: return AX_GROUP_SCALES || !AX_FIELD(i.misc, SEGA_SCALED);
    case AX_OP_MATMUL: return AX_FIELD(i.misc, MATMUL_TOKENS) < AX_TOKENS;
    case AX_OP_VREQ: return AX_FIELD(i.misc, VREQ_TOKENS) < AX_TOKENS;
    case AX_OP_VQT: return AX_FIELD(i.misc, VQT_TOKENS) < AX_TOKENS;
    case AX_OP_VBANK: return AX_FIELD(i.misc, VBANK_ROWS) < AX_TOKENS;
    case AX_OP_VOUT: return !AX_FIELD(i.misc, VOUT_UBUF) || 8 << AX_FIELD(i.misc, VOUT_SIZE) == AX_ACTIVATION_BITS;
    case AX_OP_VMAP: {
      if (AX_FIELD(i.misc, VMAP_TILED) && AX_PORTS > AX_BEAT_BYTES) return false;
      if (AX_FIELD(i.misc, VMAP_INTO) != AX_INTO_UBUF) return true;
      return 8 << AX_FIELD(i.misc, VMAP_SIZE) == AX_ACTIVATION_BITS;
    }
    default: return true;
  }
}

// What a field that names a register adds: of R16..R31 those of the window.
static uint32_t value_of(const Fetch &fetch, int number) {
  return fetch.registers[number < AX_REGISTERS_OF_ALL ? number : number + AX_REGISTERS_OF_ALL * fetch.window];
}

bool decode(ap_uint<128> word, const Fetch &fetch, Instruction &i) {
  const Raw raw = split(word);
  const int unit = UNIT_OF[raw.opcode];
  if (unit == AX_UNIT_UNKNOWN || raw.sub > SUB_MAX[raw.opcode] || raw.misc >> MISC_BITS[raw.opcode] != 0) return false;
  if (!good_semaphores(raw, unit) || !good_fields(raw)) return false;
  i.unit = unit;
  i.opcode = raw.opcode;
  i.sub = raw.sub;
  i.misc = raw.misc;
  i.x = raw.x + value_of(fetch, raw.rx);
  i.y = (uint16_t)(raw.y + value_of(fetch, raw.ry));
  i.z = (uint16_t)(raw.z + value_of(fetch, raw.rz));
  return good_resolved(i);
}
