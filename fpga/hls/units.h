// What each file of the machine offers to the others.
#ifndef AXLORA_UNITS_H
#define AXLORA_UNITS_H

#include "state.h"

// R0..R15, then R16..R31 of each window.
enum { REGISTERS = AX_REGISTERS_OF_ALL * (1 + AX_WINDOWS) };

// fetch.cpp: registers, loops and the instruction cache.
struct Fetch {
  uint32_t pc;
  uint32_t registers[REGISTERS];
  uint32_t window;
  uint32_t loop_start[AX_LOOP_DEPTH];
  uint16_t loop_left[AX_LOOP_DEPTH];
  ap_uint<3> depth;
  ap_uint<8 * AX_CACHE_LINE_BYTES> line[AX_ICACHE_LINES];
  uint32_t tag[AX_ICACHE_LINES];
  bool valid[AX_ICACHE_LINES];
};
stop_t fetch_instruction(const beat_t *memory, uint32_t mem_limit, Fetch &fetch, Instruction &i, Counters &counters);
stop_t control(const Instruction &i, Fetch &fetch);

// decode.cpp: bits to fields, and what the machine refuses.
bool decode(ap_uint<128> word, const Fetch &fetch, Instruction &i);

// transfer.cpp: LOAD and STORE.
stop_t load(const beat_t *memory, uint32_t mem_limit, const Instruction &i, Buffers &buffers, Counters &counters);
stop_t store(beat_t *memory, uint32_t mem_limit, const Instruction &i, const Buffers &buffers, Store &store,
             Counters &counters);

// matrix.cpp
stop_t matrix_unit(const Instruction &i, Buffers &buffers, Matrix &matrix, Counters &counters);

// vector.cpp, requantize.cpp, map.cpp, row.cpp
stop_t vector_unit(const Instruction &i, Buffers &buffers, Vector &vector, Counters &counters);
stop_t requantize(const Instruction &i, Buffers &buffers, const Vector &vector, Counters &counters);
stop_t block_quantize(const Instruction &i, Buffers &buffers, const Vector &vector, Counters &counters);
stop_t map_rows(const Instruction &i, Buffers &buffers, Vector &vector, Counters &counters);
stop_t row_scalars(const Instruction &i, Buffers &buffers, Vector &vector);

// results.cpp: where the vector unit's elements go. False if there is no such place.
bool put_ubuf(Buffers &buffers, uint32_t line, uint32_t row, uint32_t column, int64_t code);
bool put_obuf(Buffers &buffers, uint32_t byte, int bytes, int64_t code);
bool put_vbuf(Buffers &buffers, uint32_t word, uint32_t column, int64_t code);
uint32_t region_element(uint32_t row, uint32_t column);

// machine.cpp: the top.
extern "C" void axlora(beat_t *memory, const uint32_t registers[REGISTERS], uint32_t program, uint32_t mem_limit,
                       uint32_t *error, uint32_t *error_address, uint64_t counters[AX_COUNTERS]);

#endif
