// The vector unit: its settings, and which file does what.
#include "units.h"

stop_t vector_unit(const Instruction &i, Buffers &buffers, Vector &vector, Counters &counters) {
  switch (i.opcode) {
    case AX_OP_VCFG: vector.vcfg = i; return AX_ERR_NONE;
    case AX_OP_VOUT: vector.vout = i; return AX_ERR_NONE;
    case AX_OP_VLEN: vector.vlen = i; return AX_ERR_NONE;
    case AX_OP_VPITCH: vector.vpitch = i; return AX_ERR_NONE;
    case AX_OP_VBANK: vector.vbank = i; return AX_ERR_NONE;
    case AX_OP_VCON: vector.vcon = i; return AX_ERR_NONE;
    case AX_OP_VTAB: vector.vtab = i; return AX_ERR_NONE;
    case AX_OP_VREQ: return requantize(i, buffers, vector, counters);
    case AX_OP_VQT: return block_quantize(i, buffers, vector, counters);
    case AX_OP_VMAP: return map_rows(i, buffers, vector, counters);
    default: return row_scalars(i, buffers, vector);
  }
}
