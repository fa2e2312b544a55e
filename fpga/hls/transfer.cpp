// LOAD: memory to buffers; WKEY transposes on the way. STORE: OBUF to memory.
#include "units.h"

static ap_uint<8> byte_of(const beat_t &beat, int k) { return beat.range(8 * k + 7, 8 * k); }

static uint32_t word_of(const beat_t &beat, int k) { return (uint32_t)beat.range(32 * k + 31, 32 * k); }

static int depth_of(int buffer) {
  switch (buffer) {
    case AX_BUF_WBUF: return WBUF_BEATS;
    case AX_BUF_ABUF: return ABUF_BEATS;
    case AX_BUF_PBUF: return PBUF_BEATS;
    case AX_BUF_TBUF: return TBUF_BEATS;
    case AX_BUF_SBUF: return SBUF_BEATS;
    case AX_BUF_CBUF: return CBUF_BEATS;
    default: return FBUF_BEATS;
  }
}

static void load_weights(Buffers &buffers, uint32_t at, const beat_t &beat) {
  for (int k = 0; k < AX_BEAT_BYTES; k++) {
#pragma HLS UNROLL
    const uint32_t byte = at * AX_BEAT_BYTES + k;
    buffers.wbuf[byte / WBUF_LINE_BYTES][byte / AX_PORTS % AX_LANES][byte % AX_PORTS] = byte_of(beat, k);
  }
}

static void load_activations(Buffers &buffers, uint32_t at, const beat_t &beat) {
  for (int k = 0; k < AX_BEAT_BYTES / ELEMENT_BYTES; k++) {
#pragma HLS UNROLL
    const uint32_t element = at * (AX_BEAT_BYTES / ELEMENT_BYTES) + k;
    const act_t value = beat.range(AX_ACTIVATION_BITS * (k + 1) - 1, AX_ACTIVATION_BITS * k);
    buffers.abuf[element / (AX_LANES * AX_TOKENS)][element / AX_LANES % AX_TOKENS][element % AX_LANES] = value;
  }
}

static void load_scales(Buffers &buffers, uint32_t at, const beat_t &beat) {
  for (int k = 0; k < AX_BEAT_BYTES; k++) {
#pragma HLS UNROLL
    const uint32_t byte = at * AX_BEAT_BYTES + k;
    buffers.sbuf[byte / SBUF_LINE_BYTES][byte % SBUF_LINE_BYTES] = byte_of(beat, k);
  }
}

// The buffers of 32-bit words.
static void load_words(Buffers &buffers, int buffer, uint32_t at, const beat_t &beat) {
  for (int k = 0; k < AX_BEAT_BYTES / 4; k++) {
#pragma HLS UNROLL
    const uint32_t word = at * (AX_BEAT_BYTES / 4) + k;
    if (buffer == AX_BUF_PBUF) buffers.pbuf[word / 2][word % 2] = word_of(beat, k);
    if (buffer == AX_BUF_TBUF) buffers.tbuf[word] = word_of(beat, k);
    if (buffer == AX_BUF_CBUF) buffers.cbuf[word / AX_VECTOR_LANES][word % AX_VECTOR_LANES] = (int32_t)word_of(beat, k);
    if (buffer == AX_BUF_FBUF) buffers.table[word / 2][word % 2] = word_of(beat, k);
  }
}

// Row r of the transfer becomes column r: element e goes to lane e mod L of the block's line.
static stop_t load_columns(const beat_t *memory, uint32_t first, const Instruction &i, Buffers &buffers) {
  const uint32_t beats = AX_FIELD(i.misc, LOAD_BEATS);
  const uint64_t blocks = ((uint64_t)beats * AX_BEAT_BYTES + AX_LANES - 1) / AX_LANES;
  for (uint32_t r = 0; r < i.z; r++) {
    for (uint32_t at = 0; at < beats; at++) {
#pragma HLS PIPELINE
      const beat_t beat = memory[first + r * beats + at];
      const uint32_t element = at * AX_BEAT_BYTES;  // a beat never crosses a line: B <= L
      const uint64_t line = i.y + r / AX_PORTS * blocks + element / AX_LANES;
      if (line >= AX_WBUF_LINES) return AX_ERR_LOCAL_ADDRESS;
      for (int k = 0; k < AX_BEAT_BYTES; k++) {
#pragma HLS UNROLL
        buffers.wbuf[line][(element + k) % AX_LANES][r % AX_PORTS] = byte_of(beat, k);
      }
    }
  }
  return AX_ERR_NONE;
}

static bool within_memory(uint32_t first, count_t beats, uint32_t mem_limit) {
  return beats == 0 || ((uint64_t)first + (uint64_t)beats) * AX_BEAT_BYTES <= mem_limit;
}

stop_t load(const beat_t *memory, uint32_t mem_limit, const Instruction &i, Buffers &buffers, Counters &counters) {
  const count_t beats = (count_t)AX_FIELD(i.misc, LOAD_BEATS) * i.z;
  const uint32_t first = i.x / AX_BEAT_BYTES;
  if (!within_memory(first, beats, mem_limit)) return AX_ERR_MEMORY_ADDRESS;
  counters.value[AX_COUNTER_LOAD_BEATS] += (uint64_t)beats;
  if (i.sub == AX_BUF_WKEY) return load_columns(memory, first, i, buffers);
  if (beats != 0 && i.y + (uint64_t)beats > (uint64_t)depth_of(i.sub)) return AX_ERR_LOCAL_ADDRESS;
  for (uint32_t k = 0; k < (uint32_t)beats; k++) {
#pragma HLS PIPELINE
    const beat_t beat = memory[first + k];
    if (i.sub == AX_BUF_WBUF) load_weights(buffers, i.y + k, beat);
    else if (i.sub == AX_BUF_ABUF) load_activations(buffers, i.y + k, beat);
    else if (i.sub == AX_BUF_SBUF) load_scales(buffers, i.y + k, beat);
    else load_words(buffers, i.sub, i.y + k, beat);
  }
  return AX_ERR_NONE;
}

// Beats from `at` on to memory, of each of them bytes from .. end - 1.
static void write_beats(beat_t *memory, uint32_t at, uint32_t beats, const Buffers &buffers, uint32_t beat, int from,
                        int end) {
  for (uint32_t k = 0; k < beats; k++) {
#pragma HLS PIPELINE
    beat_t whole = 0;
    if (from != 0 || end < AX_BEAT_BYTES) whole = memory[at + k];
    for (int byte = 0; byte < AX_BEAT_BYTES; byte++) {
#pragma HLS UNROLL
      if (byte >= from && byte < end) whole.range(8 * byte + 7, 8 * byte) = buffers.obuf[beat + k][byte];
    }
    memory[at + k] = whole;
  }
}

stop_t store(beat_t *memory, uint32_t mem_limit, const Instruction &i, const Buffers &buffers, Store &store,
             Counters &counters) {
  if (i.opcode == AX_OP_SPITCH) {
    store.spitch = i;
    return AX_ERR_NONE;
  }
  // A piece is the whole transfer, or a row, or, of sub = s > 0, 2^(s-1) bytes of each beat, from the address mod B on.
  const uint32_t beats = AX_FIELD(i.misc, STORE_BEATS);
  const bool parts = i.sub != 0, rows = store.spitch.x != 0;
  const count_t piece = parts ? (count_t)1 : rows ? (count_t)beats : (count_t)((count_t)beats * i.z);
  const uint32_t in_row = parts ? beats : 1, all_rows = parts || rows ? (uint32_t)i.z : 1;
  const uint32_t pitch = store.spitch.y == 0 ? (uint32_t)AX_BEAT_BYTES : (uint32_t)store.spitch.y;
  uint64_t beat = i.y;
  uint32_t row_at = i.x, at = i.x;
  if (beats == 0 || i.z == 0) return AX_ERR_NONE;
  for (uint32_t r = 0; r < all_rows; r++) {
    if (rows) at = row_at;
    for (uint32_t n = 0; n < in_row; n++) {
      if (beat + (uint64_t)piece > AX_OBUF_BEATS) return AX_ERR_LOCAL_ADDRESS;
      if (!within_memory(at / AX_BEAT_BYTES, piece, mem_limit)) return AX_ERR_MEMORY_ADDRESS;
      const int from = parts ? at % AX_BEAT_BYTES : 0, end = parts ? from + (1 << (i.sub - 1)) : (int)AX_BEAT_BYTES;
      write_beats(memory, at / AX_BEAT_BYTES, (uint32_t)piece, buffers, (uint32_t)beat, from, end);
      counters.value[AX_COUNTER_STORE_BEATS] += (uint64_t)piece;
      beat += (uint64_t)piece;
      at += pitch;
    }
    row_at += store.spitch.x;
  }
  return AX_ERR_NONE;
}
