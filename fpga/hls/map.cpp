// VMAP: a function of every element of up to AX_ROWS rows, a reduction over each row.
#include "arithmetic.h"
#include "units.h"

// Where the operands, results and constants of a VMAP are.
struct Mapping {
  uint32_t function, reduce, into, size, rows, bank, words;
  uint32_t a, b, to, scale, less;
  bool a_cbuf, b_cbuf, subtract, tiled, shared;
  int64_t ca, cb, low;
  uint32_t first, last;
  int shift, step;
};

static Mapping mapping_of(const Instruction &i, const Vector &vector) {
  Mapping m;
  m.function = AX_FIELD(i.sub, VMAP_FUNCTION);
  m.reduce = AX_FIELD(i.sub, VMAP_REDUCE);
  m.into = AX_FIELD(i.misc, VMAP_INTO);
  m.size = AX_FIELD(i.misc, VMAP_SIZE);
  m.rows = AX_FIELD(i.misc, VMAP_ROWS) + 1;
  m.bank = vector.vbank.opcode == AX_OP_VBANK ? AX_FIELD(vector.vbank.misc, VBANK_ROWS) + 1 : AX_TOKENS;
  m.words = i.z;
  const uint32_t a = AX_FIELD(i.x, VMAP_A), b = AX_FIELD(i.x, VMAP_B);
  m.a = a & (AX_CBUF_BIT - 1);
  m.b = b & (AX_CBUF_BIT - 1);
  m.a_cbuf = a & AX_CBUF_BIT;
  m.b_cbuf = b & AX_CBUF_BIT;
  m.to = i.y;
  m.scale = AX_FIELD(i.misc, VMAP_SCALE);
  m.less = AX_FIELD(i.misc, VMAP_LESS);
  m.subtract = AX_FIELD(i.misc, VMAP_SUBTRACT);
  m.tiled = AX_FIELD(i.misc, VMAP_TILED);
  m.shared = AX_FIELD(i.misc, VMAP_SHARED);
  m.ca = signed_bits(AX_FIELD(vector.vcon.x, VCON_CA), 16);
  m.cb = signed_bits(AX_FIELD(vector.vcon.x, VCON_CB), 16);
  m.low = (int32_t)vector.vtab.x;
  m.first = vector.vtab.y;
  m.last = vector.vtab.z;
  m.step = AX_FIELD(vector.vtab.misc, VTAB_STEP);
  m.shift = m.function == AX_MAP_TABLE ? AX_FIELD(vector.vtab.misc, VTAB_SHIFT) : AX_FIELD(vector.vcon.y, VCON_SHIFT);
  return m;
}

static bool two_operands(const Mapping &m) { return m.function == AX_MAP_MAC || m.function == AX_MAP_MUL; }

// Where a row begins, less where the first does: rows of a bank are a pitch apart, and banks `apart`.
static uint32_t row_place(const Mapping &m, uint32_t row, uint32_t pitch, uint32_t apart) {
#pragma HLS INLINE
  return row % m.bank * pitch + row / m.bank * apart;
}

// The words of the last row and of the last row of a full bank are there; pitches are not negative, so the others are
// too.
static bool rows_within(const Mapping &m, bool cbuf, uint32_t first, uint32_t pitch, uint32_t apart) {
  const uint32_t words = cbuf ? AX_CBUF_WORDS : AX_VBUF_WORDS;
  if (first + row_place(m, m.rows - 1, pitch, apart) + m.words > words) return false;
  return m.rows < m.bank || first + row_place(m, m.rows / m.bank * m.bank - 1, pitch, apart) + m.words <= words;
}

static bool operands_within(const Mapping &m, const Vector &vector) {
  const Instruction &pitch = vector.vpitch, &bank = vector.vbank;
  if (!rows_within(m, m.a_cbuf, m.a, AX_FIELD(pitch.x, VPITCH_A), AX_FIELD(bank.x, VBANK_A))) return false;
  if (two_operands(m) && !rows_within(m, m.b_cbuf, m.b, AX_FIELD(pitch.x, VPITCH_B), AX_FIELD(bank.x, VBANK_B)))
    return false;
  if (m.into == AX_INTO_VBUF && !rows_within(m, false, m.to, pitch.y, bank.y)) return false;
  return m.function != AX_MAP_TABLE || m.first + m.last + 1 <= AX_TABLE_ENTRIES;
}

static int64_t operand(const Buffers &buffers, bool cbuf, uint32_t word, int lane) {
#pragma HLS INLINE
  return cbuf ? buffers.cbuf[word][lane] : buffers.vbuf[word][lane];
}

// y of docs/isa.md, before masks; `changed` if its saturation did.
static int64_t mapped(const Mapping &m, const Buffers &buffers, const Vector &vector, uint32_t row, int64_t a,
                      int64_t b, bool &changed) {
#pragma HLS INLINE
  const uint32_t own = m.shared ? row % m.bank : row;
  const int64_t x = saturate32(a - (m.subtract ? vector.factor[m.less][own] : 0));
  int64_t product = 0, base = 0;
  int shift = m.shift;
  if (m.function == AX_MAP_MAC) {
    product = x * m.ca + b * m.cb;
  } else if (m.function == AX_MAP_MUL) {
    product = x * b;
  } else if (m.function == AX_MAP_SCALE) {
    product = x * vector.factor[m.scale][own];
    shift = vector.shift[m.scale][own];
  } else {
    const int64_t distance = x - m.low;
    const int64_t index = clamp64(distance >> m.step, 0, m.last);
    base = (int32_t)buffers.table[m.first + index][0];
    product = (int32_t)buffers.table[m.first + index][1] * saturate32(distance - (index << m.step));
  }
  return saturated32(round_shift(product, shift) + base, changed);
}

// An element to UBUF or OBUF.
static bool put_element(const Mapping &m, Buffers &buffers, const Vector &vector, uint32_t row, uint32_t n,
                        int64_t code) {
#pragma HLS INLINE
  const uint32_t lines = row / m.bank * vector.vbank.y;
  if (m.into == AX_INTO_UBUF) return put_ubuf(buffers, (m.to & (AX_UBUF_BIT - 1)) + lines, row % m.bank, n, code);
  const uint32_t byte = (m.to + row_place(m, row, vector.vpitch.y, vector.vbank.y)) * AX_BEAT_BYTES;
  if (!m.tiled) return put_obuf(buffers, byte + (n << m.size), 1 << m.size, code);
  // Tiles: byte n mod P of every P bytes of beat n / P.
  bool there = true;
  for (int tile = 0; tile < AX_BEAT_BYTES / AX_PORTS; tile++) {
#pragma HLS UNROLL
    there &= put_obuf(buffers, byte + n / AX_PORTS * AX_BEAT_BYTES + tile * AX_PORTS + n % AX_PORTS, 1, code);
  }
  return there;
}

static int64_t reduced(uint32_t reduce, int64_t before, int64_t y) {
#pragma HLS INLINE
  if (reduce == AX_REDUCE_SUM) return before + y;
  const int64_t value = reduce == AX_REDUCE_ABSMAX ? magnitude64(y) : y;
  return value > before ? value : before;
}

// Words on their way to VBUF: a word of a VMAP reads what those at least AX_READ_AFTER before it wrote.
struct Delay {
  int32_t value[AX_READ_AFTER][AX_VECTOR_LANES];
  uint32_t word[AX_READ_AFTER];
};

static void write_delayed(Buffers &buffers, const Delay &delay, uint32_t place) {
#pragma HLS INLINE
  for (int lane = 0; lane < AX_VECTOR_LANES; lane++) {
#pragma HLS UNROLL
    put_vbuf(buffers, delay.word[place], lane, delay.value[place][lane]);
  }
}

// One word: V elements of a row. False if a result has no place.
static bool map_word(const Mapping &m, Buffers &buffers, Vector &vector, uint32_t row, uint32_t w,
                     int32_t result[AX_VECTOR_LANES], Counters &counters) {
#pragma HLS INLINE
  const Instruction &pitch = vector.vpitch, &bank = vector.vbank;
  const uint32_t at_a = m.a + row_place(m, row, AX_FIELD(pitch.x, VPITCH_A), AX_FIELD(bank.x, VBANK_A)) + w;
  const uint32_t at_b = m.b + row_place(m, row, AX_FIELD(pitch.x, VPITCH_B), AX_FIELD(bank.x, VBANK_B)) + w;
  const uint64_t valid = (uint64_t)vector.vlen.x + (AX_FIELD(vector.vlen.misc, VLEN_STEP) ? row % m.bank : 0);
  const int64_t high = ((int64_t)1 << ((8 << m.size) - 1)) - 1;
  bool there = true;
  for (int lane = 0; lane < AX_VECTOR_LANES; lane++) {
#pragma HLS UNROLL
    const uint32_t n = w * AX_VECTOR_LANES + lane;
    const int64_t b = two_operands(m) ? operand(buffers, m.b_cbuf, at_b, lane) : 0;
    bool changed = false;
    int64_t y = mapped(m, buffers, vector, row, operand(buffers, m.a_cbuf, at_a, lane), b, changed);
    const bool counts = n < valid;
    if (counts && m.reduce != AX_REDUCE_NONE) vector.reduced[row] = reduced(m.reduce, vector.reduced[row], y);
    if (!counts) y = 0;
    if (m.into != AX_INTO_NOTHING) {
      const int64_t code = clamp64(y, -high, high);
      changed |= code != y;
      result[lane] = (int32_t)code;
      if (m.into != AX_INTO_VBUF) there &= put_element(m, buffers, vector, row, n, code);
    }
    counters.value[AX_COUNTER_SATURATIONS] += counts && changed;
  }
  return there;
}

stop_t map_rows(const Instruction &i, Buffers &buffers, Vector &vector, Counters &counters) {
  if (i.z == 0) return AX_ERR_NONE;
  const Mapping m = mapping_of(i, vector);
  if (!operands_within(m, vector)) return AX_ERR_LOCAL_ADDRESS;
  Delay delay;
  uint32_t place = 0, waiting = 0;  // the next place of `delay`, and how many words it holds
  for (uint32_t row = 0; row < m.rows; row++) {
    if (m.reduce != AX_REDUCE_NONE) vector.reduced[row] = m.reduce == AX_REDUCE_MAX ? -((int64_t)1 << 31) : 0;
    for (uint32_t w = 0; w < m.words; w++) {
#pragma HLS PIPELINE
      if (waiting == AX_READ_AFTER) write_delayed(buffers, delay, place);
      if (!map_word(m, buffers, vector, row, w, delay.value[place], counters)) return AX_ERR_LOCAL_ADDRESS;
      delay.word[place] = m.to + row_place(m, row, vector.vpitch.y, vector.vbank.y) + w;
      if (m.into == AX_INTO_VBUF) {
        if (waiting < AX_READ_AFTER) waiting++;
        place = place + 1 == AX_READ_AFTER ? 0 : place + 1;
      }
    }
  }
  for (uint32_t k = 0; k < waiting; k++) {
    const uint32_t oldest = waiting < AX_READ_AFTER ? k : (place + k) % AX_READ_AFTER;
    write_delayed(buffers, delay, oldest);
  }
  counters.value[AX_COUNTER_VECTOR_ELEMENTS] += (uint64_t)m.rows * m.words * AX_VECTOR_LANES;
  return AX_ERR_NONE;
}
