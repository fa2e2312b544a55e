// The product engines and the decoder of weight codes.
#include "engine.h"

static const uint8_t FORMAT_BITS[] = AX_FORMAT_BITS;
static const uint8_t FORMAT_STORAGE[] = AX_FORMAT_STORAGE;
static const uint8_t FORMAT_CLASS[] = AX_FORMAT_CLASS;

// log2 of the column groups in a word of WBUF.
int sub_bits(int format) { return FORMAT_STORAGE[format] == 8 ? 0 : FORMAT_STORAGE[format] == 4 ? 1 : 2; }

int format_class(int format) { return FORMAT_CLASS[format]; }

// Code p of sub-group `sub`, at bit (sub*P + p)*width of the word.
Code code_of(const uint8_t word[AX_PORTS], int format, int sub, int p, const int8_t codebook[16]) {
#pragma HLS INLINE
  const int bits = FORMAT_BITS[format], width = FORMAT_STORAGE[format];
  const int at = (sub * AX_PORTS + p) * width;
  const int raw = word[at / 8] >> at % 8 & ((1 << bits) - 1);
  Code code;
  code.negative = false;
  code.zero = raw == 0;
  code.index = raw;
  code.factor = raw;
  if (FORMAT_CLASS[format] == SIGNED) {
    code.negative = raw >> (bits - 1);
    const int magnitude = code.negative ? (1 << bits) - raw : raw;
    code.index = magnitude & 127;  // 128 takes the entry that zero does not need
    code.factor = magnitude;
  } else if (FORMAT_CLASS[format] == CODEBOOK) {
    code.factor = codebook[raw];
    code.zero = false;
  }
  return code;
}

enum { FILL = AX_MULTIPLES / AX_MULTIPLIERS };  // cycles of a fill

// A MATMUL begins: its first fill runs beside no look-ups but its own first group's.
void begin(Kept &kept) {
#pragma HLS INLINE
  kept.tables.looked = 1;
}

// One-cycle flash clear.
void clear(Kept &kept) {
#pragma HLS INLINE
  kept.tables.filled = false;
  for (int k = 0; k < AX_INDEX_ENTRIES; k++) {
#pragma HLS UNROLL
    kept.cache.valid[k] = false;
  }
}

// M multipliers, M codes a cycle: every code is multiplied.
static void mac_group(const act_t x[AX_TOKENS], const Code codes[AX_PORTS], product_t products[AX_TOKENS][AX_PORTS],
                      GroupCost &cost) {
#pragma HLS INLINE
  for (int p = 0; p < AX_PORTS; p++) {
#pragma HLS PIPELINE
#pragma HLS UNROLL factor = AX_MULTIPLIERS
    for (int t = 0; t < AX_TOKENS; t++) {
#pragma HLS UNROLL
      const product_t product = (int)x[t] * (int)codes[p].factor;
      products[t][p] = codes[p].negative ? (product_t)-product : product;
    }
  }
  cost.multiplications = AX_PORTS;
  cost.zeros = 0;
  cost.cycles = AX_PORTS / AX_MULTIPLIERS;
}

// AxLLM's: a product is made once for each index, by the multiplier of the index's bank; later codes read it.
static void reuse_group(ResultCache &cache, const act_t x[AX_TOKENS], const Code codes[AX_PORTS],
                        product_t products[AX_TOKENS][AX_PORTS], GroupCost &cost) {
#pragma HLS INLINE
  ap_uint<5> load[AX_MULTIPLIERS];  // misses of each bank
#pragma HLS ARRAY_PARTITION variable = load type = complete
  for (int bank = 0; bank < AX_MULTIPLIERS; bank++) load[bank] = 0;
  cost.multiplications = 0;
  cost.zeros = 0;
  for (int p = 0; p < AX_PORTS; p++) {
#pragma HLS PIPELINE
    const int index = codes[p].index;
    const bool zero = codes[p].zero;
    if (!zero && !cache.valid[index]) {
      for (int t = 0; t < AX_TOKENS; t++) {
#pragma HLS UNROLL
        cache.product[index][t] = (int)x[t] * (int)codes[p].factor;
      }
      cache.valid[index] = true;
      cost.multiplications++;
      load[index % AX_MULTIPLIERS]++;
    }
    cost.zeros += zero;
    for (int t = 0; t < AX_TOKENS; t++) {
#pragma HLS UNROLL
      const product_t held = cache.product[index][t];
      products[t][p] = zero ? (product_t)0 : codes[p].negative ? (product_t)-held : held;
    }
  }
  cost.cycles = 1;
  for (int bank = 0; bank < AX_MULTIPLIERS; bank++) {
#pragma HLS UNROLL
    if (load[bank] > cost.cycles) cost.cycles = load[bank];
  }
}

// Two look-ups and an addition a code; a fill of the tables is one addition an entry and goes on beside earlier
// look-ups.
static void table_group(Tables &tables, bool is_unsigned, const act_t x[AX_TOKENS], const Code codes[AX_PORTS],
                        product_t products[AX_TOKENS][AX_PORTS], GroupCost &cost) {
#pragma HLS INLINE
  cost.multiplications = 0;
  cost.zeros = 0;
  cost.cycles = 1;
  if (!tables.filled) {
    for (int t = 0; t < AX_TOKENS; t++) {
#pragma HLS UNROLL
      ap_int<AX_ACTIVATION_BITS + 5> multiple = 0;
      for (int n = 0; n < AX_MULTIPLES; n++) {
        tables.low[n][t] = multiple;
        tables.high[n][t] = multiple - (n >= AX_MULTIPLES / 2 && !is_unsigned ? AX_MULTIPLES * (int)x[t] : 0);
        multiple += x[t];
      }
    }
    cost.multiplications = AX_FILL_ADDS;
    if (tables.looked < FILL) cost.cycles += FILL - tables.looked;
    tables.looked = 0;
    tables.filled = true;
  }
  if (tables.looked < FILL) tables.looked++;
  for (int p = 0; p < AX_PORTS; p++) {
#pragma HLS UNROLL
    const int code = codes[p].negative ? -(int)codes[p].factor : (int)codes[p].factor;
    for (int t = 0; t < AX_TOKENS; t++) {
#pragma HLS UNROLL
      products[t][p] = tables.high[code >> 4 & 15][t] * 16 + tables.low[code & 15][t];
    }
  }
}

void multiply_group(Kept &kept, bool is_unsigned, const act_t x[AX_TOKENS], const Code codes[AX_PORTS],
                    product_t products[AX_TOKENS][AX_PORTS], GroupCost &cost) {
#pragma HLS INLINE
  if (AX_ENGINE == AX_ENGINE_REUSE) reuse_group(kept.cache, x, codes, products, cost);
  else if (AX_ENGINE == AX_ENGINE_TABLE) table_group(kept.tables, is_unsigned, x, codes, products, cost);
  else mac_group(x, codes, products, cost);
}
