// The matrix unit: segments of a row, lanes, the tree over them, accumulators and group scales.
#include "arithmetic.h"
#include "engine.h"
#include "units.h"

// The part of a MATMUL that does not change while it runs.
struct Product {
  uint32_t acc, line, blocks, per_group, tokens, segments;
  bool first, from_ubuf;
  mask_t mask[AX_SEGMENTS];  // tokens of each segment; none where it takes no part
};

// Where a MATMUL stands: row block b, scale group g, place of b in g, and whether b is its last.
struct Place {
  uint32_t b, g, within;
  bool ends;
};

typedef int64_t Sums[AX_TOKENS][AX_PORTS];

static void set_weights(const Instruction &i, Segment &segment) {
  segment.format = AX_FIELD(i.misc, SEGW_FORMAT);
  segment.slot = AX_FIELD(i.misc, SEGW_SLOT);
  segment.line = i.y;
  segment.groups = i.z;
  segment.block_stride = AX_FIELD(i.x, SEGW_BLOCK_STRIDE);
  segment.group_stride = AX_FIELD(i.x, SEGW_GROUP_STRIDE);
}

static void set_sums(const Instruction &i, Segment &segment) {
  segment.acc = i.y;
  segment.scale_line = i.z;
  segment.scale_stride = AX_FIELD(i.x, SEGA_SCALE_STRIDE);
  segment.scaled = AX_FIELD(i.misc, SEGA_SCALED);
  segment.sums = AX_FIELD(i.misc, SEGA_SUMS);
}

static void set_codebook(const Instruction &i, int8_t codebook[16]) {
  const uint64_t entries = (uint64_t)i.z << 48 | (uint64_t)i.y << 32 | i.x;
  for (int k = 0; k < 8; k++) {
#pragma HLS UNROLL
    codebook[8 * i.sub + k] = (int8_t)(entries >> 8 * k & 255);
  }
}

// The tokens that a segment is for: all, or those of its slot. A segment without columns or tokens takes no part.
static stop_t find_masks(const Instruction &i, const Buffers &buffers, const Matrix &matrix, Product &product) {
  const uint32_t token = AX_FIELD(i.x, MATMUL_TOKEN);
  if (token + product.tokens > AX_TBUF_TOKENS) return AX_ERR_LOCAL_ADDRESS;
  for (int s = 0; s < AX_SEGMENTS; s++) {
    const Segment &segment = matrix.segments[s];
    product.mask[s] = 0;
    for (uint32_t t = 0; t < product.tokens; t++) {
#pragma HLS PIPELINE
      const ap_uint<4> slot = buffers.tbuf[token + t] & 15;
      product.mask[s][t] = segment.slot == 0 || slot == segment.slot;
    }
    if ((uint32_t)s >= product.segments || segment.groups == 0) product.mask[s] = 0;
    if (product.mask[s] != 0 && segment.scaled && product.per_group == 0) return AX_ERR_ILLEGAL;
  }
  return AX_ERR_NONE;
}

static int tokens_in(mask_t mask) {
  int count = 0;
  for (int t = 0; t < AX_TOKENS; t++) {
#pragma HLS UNROLL
    count += mask[t];
  }
  return count;
}

// One column group of one row block in all lanes: sums over the lanes, and what it cost them.
static void multiply_lanes(const Buffers &buffers, const Product &product, const Segment &segment, mask_t mask,
                           uint32_t b, uint32_t word, int sub, const int8_t codebook[16], Kept kept[AX_LANES],
                           Sums sums, Counters &counters) {
  uint32_t multiplications = 0, zeros = 0, further = 0;
  for (int t = 0; t < AX_TOKENS; t++)
    for (int p = 0; p < AX_PORTS; p++) sums[t][p] = 0;
  for (int lane = 0; lane < AX_LANES; lane++) {
#pragma HLS UNROLL
    act_t x[AX_TOKENS];
    Code codes[AX_PORTS];
    product_t products[AX_TOKENS][AX_PORTS];
#pragma HLS ARRAY_PARTITION variable = x type = complete
#pragma HLS ARRAY_PARTITION variable = codes type = complete
#pragma HLS ARRAY_PARTITION variable = products type = complete dim = 0
    GroupCost cost;
    for (int t = 0; t < AX_TOKENS; t++)
      x[t] = product.from_ubuf ? buffers.ubuf[product.line + b][t][lane] : buffers.abuf[product.line + b][t][lane];
    for (int p = 0; p < AX_PORTS; p++) codes[p] = code_of(buffers.wbuf[word][lane], segment.format, sub, p, codebook);
    multiply_group(kept[lane], format_class(segment.format) == UNSIGNED, x, codes, products, cost);
    for (int t = 0; t < AX_TOKENS; t++)
      for (int p = 0; p < AX_PORTS; p++) sums[t][p] += (int)products[t][p];
    multiplications += cost.multiplications;
    zeros += cost.zeros;
    further += cost.cycles - 1;
  }
  const int tokens = tokens_in(mask);
  const uint64_t macs = (uint64_t)AX_LANES * AX_PORTS * tokens;
  counters.value[AX_COUNTER_MACS] += macs;
  counters.value[AX_COUNTER_MULTIPLICATIONS] += (uint64_t)multiplications * tokens;
  counters.value[AX_COUNTER_ZEROS] += (uint64_t)zeros * tokens;
  counters.value[AX_COUNTER_LANE_GROUPS] += AX_LANES;
  counters.value[AX_COUNTER_LANE_MISSES] += further;
  if (segment.slot != 0) {
    counters.value[AX_COUNTER_ADAPTER_MACS] += macs;
    counters.value[AX_COUNTER_ADAPTER_MULTIPLICATIONS] += (uint64_t)multiplications * tokens;
  }
}

// Sums to an accumulator word, of the tokens of the mask.
static void accumulate(acc_t word[AX_TOKENS][AX_PORTS], const Sums sums, mask_t mask, bool fresh) {
  for (int t = 0; t < AX_TOKENS; t++) {
#pragma HLS UNROLL
    for (int p = 0; p < AX_PORTS; p++) {
#pragma HLS UNROLL
      if (mask[t]) word[t][p] = add64(fresh ? 0 : (int64_t)word[t][p], sums[t][p]);
    }
  }
}

// A column's sum over a scale group, less zero point times the sum of x, times the scale.
static void rescale(const acc_t group[AX_TOKENS][AX_PORTS], const uint8_t line[SBUF_LINE_BYTES],
                    const int64_t sum_x[AX_TOKENS], Sums sums) {
  for (int t = 0; t < AX_TOKENS; t++) {
#pragma HLS UNROLL
    for (int p = 0; p < AX_PORTS; p++) {
#pragma HLS UNROLL
      const int64_t zero = (int8_t)line[AX_PORTS + p];
      sums[t][p] = multiply64(subtract64(group[t][p], multiply64(zero, sum_x[t])), line[p]);
    }
  }
}

// A group of a scaled segment: into the group memory, and at the group's end rescaled into the accumulator.
static stop_t scaled_group(const Product &product, const Segment &segment, mask_t mask, const Place &at,
                           uint32_t column, uint32_t j, uint32_t acc, Buffers &buffers, Matrix &matrix,
                           int64_t sum_x[AX_TOKENS], Sums sums, Counters &counters) {
  if (column >= AX_GROUP_WORDS) return AX_ERR_LOCAL_ADDRESS;
  accumulate(matrix.group[column], sums, mask, at.within == 0);
  if (!at.ends) return AX_ERR_NONE;
  if (segment.sums) {
    for (int t = 0; t < AX_TOKENS; t++) {
#pragma HLS UNROLL
      if (mask[t]) sum_x[t] = matrix.group[column][t][0];
    }
    return AX_ERR_NONE;
  }
  const uint32_t line = segment.scale_line + at.g * segment.scale_stride + j;
  if (line >= AX_SBUF_LINES || acc >= AX_ACC_WORDS) return AX_ERR_LOCAL_ADDRESS;
  rescale(matrix.group[column], buffers.sbuf[line], sum_x, sums);
  accumulate(buffers.acc[acc], sums, mask, product.first && at.g == 0);
  counters.value[AX_COUNTER_RESCALES] += (uint64_t)AX_PORTS * tokens_in(mask);
  return AX_ERR_NONE;
}

// One row block: every column group of every segment that takes part.
static stop_t multiply_row(const Product &product, const Place &at, Buffers &buffers, Matrix &matrix,
                           Kept kept[AX_LANES], int64_t sum_x[AX_TOKENS], Counters &counters) {
  uint32_t column = 0;
  int last_class = -1;
  for (uint32_t s = 0; s < product.segments; s++) {
    const Segment segment = matrix.segments[s];
    const mask_t mask = product.mask[s];
    if (mask == 0) continue;
    if (format_class(segment.format) != last_class) {
      for (int lane = 0; lane < AX_LANES; lane++) {
#pragma HLS UNROLL
        clear(kept[lane]);
      }
    }
    last_class = format_class(segment.format);
    const int wide = sub_bits(segment.format);
    for (uint32_t j = 0; j < segment.groups; j++, column++) {
      const uint32_t index = (at.b * segment.block_stride + j * segment.group_stride) & 0xFFFF;
      const uint32_t word = segment.line + (index >> wide);
      if (word >= AX_WBUF_LINES) return AX_ERR_LOCAL_ADDRESS;
      Sums sums;
#pragma HLS ARRAY_PARTITION variable = sums type = complete dim = 0
      multiply_lanes(buffers, product, segment, mask, at.b, word, index & ((1u << wide) - 1), matrix.codebook, kept,
                     sums, counters);
      const uint32_t acc = ((segment.acc + product.acc) & 0xFFFF) + j;
      if (segment.scaled) {
        const stop_t error =
            scaled_group(product, segment, mask, at, column, j, acc, buffers, matrix, sum_x, sums, counters);
        if (error != AX_ERR_NONE) return error;
      } else {
        if (acc >= AX_ACC_WORDS) return AX_ERR_LOCAL_ADDRESS;
        accumulate(buffers.acc[acc], sums, mask, product.first && at.b == 0);
      }
    }
  }
  return AX_ERR_NONE;
}

static stop_t matmul(const Instruction &i, Buffers &buffers, Matrix &matrix, Counters &counters) {
  static Kept kept[AX_LANES];
#pragma HLS ARRAY_PARTITION variable = kept type = complete dim = 1
  Product product;
  product.tokens = AX_FIELD(i.misc, MATMUL_TOKENS) + 1;
  product.segments = i.sub;
  product.blocks = i.z;
  product.per_group = AX_FIELD(i.misc, MATMUL_PER_GROUP);
  product.acc = AX_FIELD(i.x, MATMUL_ACC);
  product.line = i.y & (AX_UBUF_BIT - 1);
  product.from_ubuf = i.y & AX_UBUF_BIT;
  product.first = AX_FIELD(i.misc, MATMUL_FIRST);
  stop_t error = find_masks(i, buffers, matrix, product);
  if (error != AX_ERR_NONE) return error;
  bool active = false;
  for (int s = 0; s < AX_SEGMENTS; s++) active |= product.mask[s] != 0;
  const uint32_t lines = product.from_ubuf ? AX_UBUF_LINES : AX_ABUF_LINES;
  if (active && product.blocks && product.line + product.blocks > lines) return AX_ERR_LOCAL_ADDRESS;
  int64_t sum_x[AX_TOKENS];
  for (int t = 0; t < AX_TOKENS; t++) sum_x[t] = 0;
  Place at = {0, 0, 0, false};
  for (int lane = 0; lane < AX_LANES; lane++) {
#pragma HLS UNROLL
    begin(kept[lane]);
  }
  for (at.b = 0; active && at.b < product.blocks; at.b++) {
    at.ends = at.within + 1 == product.per_group || at.b + 1 == product.blocks;
    error = multiply_row(product, at, buffers, matrix, kept, sum_x, counters);
    if (error != AX_ERR_NONE) return error;
    at.within++;
    if (at.within == product.per_group) {
      at.within = 0;
      at.g++;
    }
  }
  return AX_ERR_NONE;
}

stop_t matrix_unit(const Instruction &i, Buffers &buffers, Matrix &matrix, Counters &counters) {
  switch (i.opcode) {
    case AX_OP_SEGW: set_weights(i, matrix.segments[i.sub]); return AX_ERR_NONE;
    case AX_OP_SEGA: set_sums(i, matrix.segments[i.sub]); return AX_ERR_NONE;
    case AX_OP_CODEBOOK: set_codebook(i, matrix.codebook); return AX_ERR_NONE;
    default: return matmul(i, buffers, matrix, counters);
  }
}
