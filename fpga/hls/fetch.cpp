// Fetch: the instruction cache, registers and loops.
#include "units.h"

enum { LINE_BEATS = AX_CACHE_LINE_BYTES / AX_BEAT_BYTES, PLACES = AX_CACHE_LINE_BYTES / AX_INSTRUCTION_BYTES };

static void read_line(const beat_t *memory, uint32_t line, ap_uint<8 * AX_CACHE_LINE_BYTES> &data) {
  for (int k = 0; k < LINE_BEATS; k++) {
#pragma HLS PIPELINE
    data.range(8 * AX_BEAT_BYTES * (k + 1) - 1, 8 * AX_BEAT_BYTES * k) = memory[line * LINE_BEATS + k];
  }
}

// Reads a line that is not in the cache.
static void ask(const beat_t *memory, uint32_t line, Fetch &fetch, Counters &counters) {
  const uint32_t place = line % AX_ICACHE_LINES;
  if (fetch.valid[place] && fetch.tag[place] == line) return;
  read_line(memory, line, fetch.line[place]);
  fetch.tag[place] = line;
  fetch.valid[place] = true;
  counters.value[AX_COUNTER_FETCH_BEATS] += LINE_BEATS;
}

// The line that the instruction at pc asks for ahead: 1 to 4 behind its own.
static void ask_ahead(const beat_t *memory, uint32_t mem_limit, Fetch &fetch, Counters &counters) {
  const uint32_t apart = fetch.pc % AX_CACHE_LINE_BYTES / AX_INSTRUCTION_BYTES + 1;
  const uint32_t line = (fetch.pc + apart * AX_CACHE_LINE_BYTES) / AX_CACHE_LINE_BYTES;
  if (apart < AX_ICACHE_LINES && line * AX_CACHE_LINE_BYTES < mem_limit) ask(memory, line, fetch, counters);
}

// The instruction at pc with its registers added in.
stop_t fetch_instruction(const beat_t *memory, uint32_t mem_limit, Fetch &fetch, Instruction &i, Counters &counters) {
  if (fetch.pc >= mem_limit) return AX_ERR_MEMORY_ADDRESS;
  const uint32_t line = fetch.pc / AX_CACHE_LINE_BYTES;
  ask(memory, line, fetch, counters);
  const int at = 8 * (fetch.pc % AX_CACHE_LINE_BYTES);
  const ap_uint<128> word = fetch.line[line % AX_ICACHE_LINES].range(at + 127, at);
  if (!decode(word, fetch, i)) return AX_ERR_ILLEGAL;
  if (i.opcode != AX_OP_HALT) ask_ahead(memory, mem_limit, fetch, counters);
  return AX_ERR_NONE;
}

// SET, WINDOW, LOOP and ENDLOOP; moves pc past any instruction.
stop_t control(const Instruction &i, Fetch &fetch) {
  fetch.pc += AX_INSTRUCTION_BYTES;
  if (i.opcode == AX_OP_SET) {
    fetch.registers[AX_FIELD(i.misc, SET_RD)] = i.x;
  } else if (i.opcode == AX_OP_WINDOW) {
    fetch.window = i.x;
  } else if (i.opcode == AX_OP_LOOP) {
    if (i.z == 0) {
      fetch.pc += ((uint32_t)i.y + 1) * AX_INSTRUCTION_BYTES;
      return AX_ERR_NONE;
    }
    if (fetch.depth == AX_LOOP_DEPTH) return AX_ERR_LOOP;
    fetch.loop_start[fetch.depth] = fetch.pc;
    fetch.loop_left[fetch.depth] = i.z;
    fetch.depth++;
  } else if (i.opcode == AX_OP_ENDLOOP) {
    if (fetch.depth == 0) return AX_ERR_LOOP;
    const int top = fetch.depth - 1;
    if (fetch.loop_left[top] > 1) {
      fetch.loop_left[top]--;
      fetch.pc = fetch.loop_start[top];
    } else {
      fetch.depth--;
    }
  }
  return AX_ERR_NONE;
}
