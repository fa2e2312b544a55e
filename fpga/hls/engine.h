// Product engines: P codes of one lane times its T activations. AX_ENGINE_REUSE chooses, as in the Verilog.
#ifndef AXLORA_ENGINE_H
#define AXLORA_ENGINE_H

#include "types.h"

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

// What one group of P codes costs a lane.
struct GroupCost {
  ap_uint<5> multiplications, zeros, cycles;
};

Code code_of(const uint8_t word[AX_PORTS], int format, int sub, int p, const int8_t codebook[16]);
int sub_bits(int format);
int format_class(int format);
void clear(ResultCache &cache);
void multiply_group(ResultCache &cache, const act_t x[AX_TOKENS], const Code codes[AX_PORTS],
                    product_t products[AX_TOKENS][AX_PORTS], GroupCost &cost);

#endif
