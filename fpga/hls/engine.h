// Product engines: P codes of one lane times its T activations. AX_ENGINE chooses, as in the Verilog.
#ifndef AXLORA_ENGINE_H
#define AXLORA_ENGINE_H

#include "types.h"

enum { SIGNED = 0, UNSIGNED = 1, CODEBOOK = 2 };  // classes of formats

// What a code is worth, and which entry of the result cache its product lives in.
struct Code {
  ap_uint<8> index;
  ap_int<9> factor;    // multiplied with the activation: the magnitude of a signed code, else the value
  bool negative;       // the product is negated when it is read
  bool zero;           // needs no entry and no multiplication
};

// Products of one lane's activations, by index; valid as long as the activations and the format's class stay.
struct ResultCache {
  product_t product[AX_INDEX_ENTRIES][AX_TOKENS];
  bool valid[AX_INDEX_ENTRIES];
};

// Multiples of one lane's activations for the nibbles of a code: low x*0 .. x*15, high x*-8 .. x*7 or, of unsigned
// codes, as low.
struct Tables {
  ap_int<AX_ACTIVATION_BITS + 4> low[AX_MULTIPLES][AX_TOKENS], high[AX_MULTIPLES][AX_TOKENS];
  bool filled;
  ap_uint<5> looked;  // groups since the last fill, as far as a fill is long
};

// What a lane keeps between groups; of `reuse` the cache, of `table` the tables.
struct Kept {
  ResultCache cache;
  Tables tables;
};

// What one group of P codes costs a lane.
struct GroupCost {
  ap_uint<5> multiplications, zeros, cycles;
};

Code code_of(const uint8_t word[AX_PORTS], int format, int sub, int p, const int8_t codebook[16]);
int sub_bits(int format);
int format_class(int format);
void begin(Kept &kept);
void clear(Kept &kept);
void multiply_group(Kept &kept, bool is_unsigned, const act_t x[AX_TOKENS], const Code codes[AX_PORTS],
                    product_t products[AX_TOKENS][AX_PORTS], GroupCost &cost);

#endif
