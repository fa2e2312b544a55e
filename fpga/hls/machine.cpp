// The top: runs a program in program order, which is a legal order (every wait is met by posts before it), until HALT
// or an error. Time is not modelled: counters of cycles stay zero, and semaphores and watchdog do not exist here.
#include "units.h"

static stop_t execute(beat_t *memory, uint32_t mem_limit, const Instruction &i, Machine &machine, Counters &counters) {
  switch (i.unit) {
    case AX_UNIT_LOAD: return load(memory, mem_limit, i, machine.buffers, counters);
    case AX_UNIT_MATRIX: return matrix_unit(i, machine.buffers, machine.matrix, counters);
    case AX_UNIT_VECTOR: return vector_unit(i, machine.buffers, machine.vector, counters);
    default: return store(memory, mem_limit, i, machine.buffers, machine.store, counters);
  }
}

static void reset(const uint32_t registers[REGISTERS], uint32_t program, Fetch &fetch, Counters &counters) {
  fetch.pc = program;
  fetch.depth = 0;
  fetch.window = 0;
  for (int k = 0; k < REGISTERS; k++) fetch.registers[k] = k == 0 ? 0 : registers[k];
  for (int k = 0; k < AX_ICACHE_LINES; k++) fetch.valid[k] = false;
  for (int k = 0; k < AX_COUNTERS; k++) counters.value[k] = 0;
}

// memory: from address 0; registers: R0..R31, R16..R31 of window 1 ..; program: byte address of the first instruction;
// mem_limit: bytes.
// error: 0, or code and unit << 8 as register ERR_CODE has them; error_address: of the instruction that stopped it.
void axlora(beat_t *memory, const uint32_t registers[REGISTERS], uint32_t program, uint32_t mem_limit, uint32_t *error,
            uint32_t *error_address, uint64_t counters[AX_COUNTERS]) {
#pragma HLS INTERFACE m_axi port = memory offset = slave bundle = gmem depth = AX_COSIM_BEATS max_read_burst_length = \
    AX_BURST_BEATS max_write_burst_length = AX_BURST_BEATS num_read_outstanding = AX_OUTSTANDING
#pragma HLS INTERFACE s_axilite port = memory
#pragma HLS INTERFACE s_axilite port = registers
#pragma HLS INTERFACE s_axilite port = program
#pragma HLS INTERFACE s_axilite port = mem_limit
#pragma HLS INTERFACE s_axilite port = error
#pragma HLS INTERFACE s_axilite port = error_address
#pragma HLS INTERFACE s_axilite port = counters
#pragma HLS INTERFACE s_axilite port = return
  static Machine machine;  // zero at power-up
#pragma HLS DISAGGREGATE variable = machine
#pragma HLS DISAGGREGATE variable = machine.buffers
#pragma HLS DISAGGREGATE variable = machine.matrix
#pragma HLS DISAGGREGATE variable = machine.vector
#pragma HLS ARRAY_PARTITION variable = machine.buffers.wbuf type = complete dim = 2
#pragma HLS ARRAY_PARTITION variable = machine.buffers.wbuf type = complete dim = 3
#pragma HLS ARRAY_PARTITION variable = machine.buffers.abuf type = complete dim = 3
#pragma HLS ARRAY_PARTITION variable = machine.buffers.ubuf type = complete dim = 3
#pragma HLS ARRAY_PARTITION variable = machine.buffers.acc type = complete dim = 2
#pragma HLS ARRAY_PARTITION variable = machine.buffers.acc type = complete dim = 3
#pragma HLS ARRAY_PARTITION variable = machine.buffers.obuf type = complete dim = 2
#pragma HLS ARRAY_PARTITION variable = machine.buffers.vbuf type = complete dim = 2
#pragma HLS ARRAY_PARTITION variable = machine.buffers.cbuf type = complete dim = 2
#pragma HLS ARRAY_PARTITION variable = machine.matrix.group type = complete dim = 2
#pragma HLS ARRAY_PARTITION variable = machine.matrix.group type = complete dim = 3
  Fetch fetch;
  Counters counted;
#pragma HLS ARRAY_PARTITION variable = counted.value type = complete
  reset(registers, program, fetch, counted);
  stop_t code = AX_ERR_NONE;
  int unit = AX_UNIT_FETCH;
  uint32_t address = 0;
  for (bool running = true; running;) {
    Instruction i;
    unit = AX_UNIT_FETCH;
    address = fetch.pc;
    code = fetch_instruction(memory, mem_limit, fetch, i, counted);
    if (code == AX_ERR_NONE) {
      unit = i.unit;
      code = control(i, fetch);
      if (code == AX_ERR_NONE && unit != AX_UNIT_FETCH) code = execute(memory, mem_limit, i, machine, counted);
      counted.value[AX_COUNTER_INSTRUCTIONS]++;
    }
    running = code == AX_ERR_NONE && i.opcode != AX_OP_HALT;
  }
  *error = code == AX_ERR_NONE ? 0 : (uint32_t)code | (uint32_t)unit << 8;
  *error_address = code == AX_ERR_NONE ? 0 : address;
  for (int k = 0; k < AX_COUNTERS; k++) counters[k] = counted.value[k];
}
