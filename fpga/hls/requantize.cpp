// VREQ: accumulators to codes, base and adapter joined. VQT: x.A to codes that share a power of two per token.
#include "arithmetic.h"
#include "units.h"

// A record of PBUF. m2 is that of an adapter's record, shift that of a base's.
struct Record {
  int64_t bias, m1, m2;
  int shift;
};

static Record record_at(const Buffers &buffers, uint32_t group, uint32_t column) {
#pragma HLS INLINE
  const uint32_t at = group * AX_PORTS + column;
  const uint32_t low = buffers.pbuf[at][0], high = buffers.pbuf[at][1];
  Record record;
  record.bias = (int32_t)low;
  record.m1 = high & 0xFFFF;
  record.m2 = high >> 16;
  record.shift = high >> 16 & 63;
  return record;
}

// Whether the `count` places from `first` on are there.
static bool within(uint64_t first, uint64_t count, uint64_t depth) { return first + count <= depth; }

// The settings that VREQ reads (VCFG, VOUT).
struct Settings {
  uint32_t base, acc2;
  int guard, bias_shift, size;
  bool token_scale, bias_end, adapter, row_scale, ubuf, vbuf;
  int64_t zero_point;
};

static Settings settings_of(const Vector &vector) {
  Settings s;
  s.base = AX_FIELD(vector.vcfg.x, VCFG_BASE);
  s.acc2 = vector.vcfg.z;
  s.guard = AX_FIELD(vector.vcfg.misc, VCFG_GUARD);
  s.bias_shift = AX_FIELD(vector.vcfg.misc, VCFG_BIAS_SHIFT);
  s.token_scale = AX_FIELD(vector.vcfg.misc, VCFG_TOKEN_SCALE);
  s.bias_end = AX_FIELD(vector.vcfg.misc, VCFG_BIAS_END);
  s.adapter = AX_FIELD(vector.vcfg.misc, VCFG_ADAPTER);
  s.row_scale = AX_FIELD(vector.vcfg.misc, VCFG_ROW_SCALE);
  s.size = AX_FIELD(vector.vout.misc, VOUT_SIZE);
  s.ubuf = AX_FIELD(vector.vout.misc, VOUT_UBUF);
  s.vbuf = AX_FIELD(vector.vout.misc, VOUT_VBUF);
  s.zero_point = signed_bits(vector.vout.x, 16);
  return s;
}

// What one token of a VREQ brings: its adapter's records (if any), its exponent and its scale.
struct Token {
  bool adapter;
  uint32_t records;
  int exponent, shift;
  int64_t mantissa;
};

static Token token_at(const Buffers &buffers, const Vector &vector, const Settings &s, uint32_t at) {
  const uint32_t slot = buffers.tbuf[at] & 15;
  const uint32_t scale = s.row_scale ? buffers.row_scale[at] : buffers.tbuf[at];
  Token token;
  token.adapter = s.adapter && slot != 0;
  token.records = (AX_FIELD(vector.vcfg.x, VCFG_ADAPTERS) + (slot - 1) * vector.vcfg.y) & 0xFFFF;
  token.exponent = buffers.exponent[at];
  token.shift = scale >> 10 & 63;
  token.mantissa = scale >> 16;
  return token;
}

// One element (docs/isa.md, VREQ); `changed` if a clamp did.
static int64_t requantized(const Settings &s, const Token &token, int64_t acc1, int64_t acc2, const Record &record,
                           int shift, bool &changed) {
#pragma HLS INLINE
  const int64_t bias = left64(record.bias, s.bias_shift);
  int64_t wide = multiply64(add64(acc1, s.bias_end ? 0 : bias), record.m1);
  if (token.adapter) wide = add64(wide, left64(multiply64(acc2, record.m2), token.exponent));
  int64_t value = saturated32(round_shift(wide, shift), changed);
  if (s.token_scale) value = saturated32(round_shift(multiply64(value, token.mantissa), token.shift), changed);
  if (s.bias_end) value += bias;
  const int64_t raw = round_shift(value, s.guard) + s.zero_point;
  const int64_t high = ((int64_t)1 << ((8 << s.size) - 1)) - 1;
  const int64_t code = clamp64(raw, -high - 1, high);
  changed |= code != raw;
  return code;
}

static bool put_code(uint32_t to, const Vector &vector, const Settings &s, uint32_t t, uint32_t n, int64_t code,
                     Buffers &buffers) {
#pragma HLS INLINE
  if (s.vbuf) return put_vbuf(buffers, to + t * vector.vpitch.y, n, code);
  if (s.ubuf) return put_ubuf(buffers, to & (AX_UBUF_BIT - 1), t, n, code);
  return put_obuf(buffers, to * AX_BEAT_BYTES + (region_element(t, n) << s.size), 1 << s.size, code);
}

// The tokens of one bank: ACC words from `word1` on, scales from `first` on, to place `to`.
static stop_t requantize_bank(const Instruction &i, const Settings &s, uint32_t word1, uint32_t first, uint32_t to,
                              Buffers &buffers, const Vector &vector, Counters &counters) {
  const uint32_t tokens = AX_FIELD(i.misc, VREQ_TOKENS) + 1, word2 = (word1 + s.acc2) & 0xFFFF;
  if (!within(first, tokens, AX_TBUF_TOKENS) || !within(s.base, i.z, AX_PBUF_GROUPS)) return AX_ERR_LOCAL_ADDRESS;
  if (!within(word1, i.z, AX_ACC_WORDS)) return AX_ERR_LOCAL_ADDRESS;
  if (s.adapter && !within(word2, i.z, AX_ACC_WORDS)) return AX_ERR_LOCAL_ADDRESS;
  for (uint32_t t = 0; t < tokens; t++) {
    const Token token = token_at(buffers, vector, s, first + t);
    if (token.adapter && !within(token.records, i.z, AX_PBUF_GROUPS)) return AX_ERR_LOCAL_ADDRESS;
    for (uint32_t n = 0; n < (uint32_t)i.z * AX_PORTS; n++) {
#pragma HLS PIPELINE
      const uint32_t group = n / AX_PORTS, p = n % AX_PORTS;
      const Record base = record_at(buffers, s.base, n);
      const Record record = token.adapter ? record_at(buffers, token.records, n) : base;
      const int64_t acc2 = token.adapter ? (int64_t)buffers.acc[word2 + group][t][p] : 0;
      bool changed = false;
      const int64_t code = requantized(s, token, buffers.acc[word1 + group][t][p], acc2, record, base.shift, changed);
      if (!put_code(to, vector, s, t, n, code, buffers)) return AX_ERR_LOCAL_ADDRESS;
      counters.value[AX_COUNTER_SATURATIONS] += changed;
    }
  }
  counters.value[AX_COUNTER_VECTOR_ELEMENTS] += (uint64_t)tokens * i.z * AX_PORTS;
  return AX_ERR_NONE;
}

stop_t requantize(const Instruction &i, Buffers &buffers, const Vector &vector, Counters &counters) {
  if (i.z == 0) return AX_ERR_NONE;
  const Settings s = settings_of(vector);
  const uint32_t tokens = AX_FIELD(i.misc, VREQ_TOKENS) + 1, apart = AX_FIELD(vector.vbank.x, VBANK_A);
  for (uint32_t bank = 0; bank <= AX_FIELD(i.misc, VREQ_BANKS); bank++) {
    const uint32_t word = (AX_FIELD(i.x, VREQ_ACC) + bank * apart) & 0xFFFF;
    const uint32_t to = (i.y + bank * vector.vbank.y) & 0xFFFF;
    const stop_t stop =
        requantize_bank(i, s, word, AX_FIELD(i.x, VREQ_TOKEN) + bank * tokens, to, buffers, vector, counters);
    if (stop != AX_ERR_NONE) return stop;
  }
  return AX_ERR_NONE;
}

// One element of x.A in the common unit, clamped to 32 bits.
static int64_t wide_code(const Buffers &buffers, uint32_t base, int bias_shift, uint32_t word, uint32_t t, uint32_t n,
                         bool &changed) {
#pragma HLS INLINE
  const Record record = record_at(buffers, base, n);
  const int64_t acc = buffers.acc[word + n / AX_PORTS][t][n % AX_PORTS];
  const int64_t wide = multiply64(add64(acc, left64(record.bias, bias_shift)), record.m1);
  return saturated32(round_shift(wide, record.shift), changed);
}

stop_t block_quantize(const Instruction &i, Buffers &buffers, const Vector &vector, Counters &counters) {
  const uint32_t tokens = AX_FIELD(i.misc, VQT_TOKENS) + 1, slot = AX_FIELD(i.misc, VQT_SLOT);
  const uint32_t first = AX_FIELD(i.x, VQT_TOKEN), word = AX_FIELD(i.x, VQT_ACC);
  const uint32_t base = AX_FIELD(vector.vcfg.x, VCFG_BASE), columns = (uint32_t)i.z * AX_PORTS;
  const int bias_shift = AX_FIELD(vector.vcfg.misc, VCFG_BIAS_SHIFT);
  const int64_t high = ((int64_t)1 << (AX_ACTIVATION_BITS - 1)) - 1;
  if (!within(first, tokens, AX_TBUF_TOKENS)) return AX_ERR_LOCAL_ADDRESS;
  for (uint32_t t = 0; t < tokens; t++) {
    if (slot != 0 && (buffers.tbuf[first + t] & 15) != slot) continue;
    if (i.z && (!within(base, i.z, AX_PBUF_GROUPS) || !within(word, i.z, AX_ACC_WORDS))) return AX_ERR_LOCAL_ADDRESS;
    int64_t peak = 0;
    for (uint32_t n = 0; n < columns; n++) {
#pragma HLS PIPELINE
      bool changed = false;
      const int64_t value = magnitude64(wide_code(buffers, base, bias_shift, word, t, n, changed));
      if (value > peak) peak = value;
      counters.value[AX_COUNTER_SATURATIONS] += changed;
    }
    const int length = bit_length(peak);
    const int exponent = length > AX_ACTIVATION_BITS - 1 ? length - (AX_ACTIVATION_BITS - 1) : 0;
    buffers.exponent[first + t] = exponent;
    for (uint32_t n = 0; n < columns; n++) {
#pragma HLS PIPELINE
      bool changed = false;
      const int64_t value = wide_code(buffers, base, bias_shift, word, t, n, changed);
      const int64_t code = clamp64(round_shift(value, exponent), -high, high);
      if (!put_ubuf(buffers, i.y & (AX_UBUF_BIT - 1), t, n, code)) return AX_ERR_LOCAL_ADDRESS;
    }
    counters.value[AX_COUNTER_VECTOR_ELEMENTS] += columns;
  }
  return AX_ERR_NONE;
}
