// C simulation: runs the starts of a job file in one power-up and writes what they left to a result file.
//   testbench JOB RESULT [EXPECTED]      status 0; 1 if the result is not the expected file; 2 if a file is wrong
// A start in JOB, little endian: u32 'AXJ1', program, mem_limit, bytes, dump start, dump bytes;
// u32 registers[AX_MOST_REGISTERS]; memory.
// Its result: u32 error, error address; u64 counters[AX_COUNTERS]; the dumped bytes of memory.
#include <stdio.h>
#include <string.h>

#include <vector>

#include "units.h"

enum { MAGIC = 0x314A5841, HEAD = 6 };

static bool read_words(FILE *file, uint32_t *words, size_t count) {
  for (size_t k = 0; k < count; k++) {
    unsigned char b[4];
    if (fread(b, 1, 4, file) != 4) return false;
    words[k] = b[0] | b[1] << 8 | b[2] << 16 | (uint32_t)b[3] << 24;
  }
  return true;
}

static void put(std::vector<unsigned char> &out, uint64_t value, int bytes) {
  for (int k = 0; k < bytes; k++) out.push_back((unsigned char)(value >> 8 * k));
}

static std::vector<beat_t> to_beats(const std::vector<unsigned char> &bytes) {
  const size_t spare = AX_CACHE_LINE_BYTES;  // a line fetch may read beyond the end
  std::vector<beat_t> beats((bytes.size() + spare + AX_BEAT_BYTES - 1) / AX_BEAT_BYTES, beat_t(0));
  for (size_t k = 0; k < bytes.size(); k++) {
    const int low = 8 * (k % AX_BEAT_BYTES);
    beats[k / AX_BEAT_BYTES].range(low + 7, low) = bytes[k];
  }
  return beats;
}

// One start; false if the job is not whole.
static bool run_start(FILE *job, std::vector<unsigned char> &out) {
  uint32_t head[HEAD], registers[AX_MOST_REGISTERS];
  if (!read_words(job, head, HEAD) || !read_words(job, registers, AX_MOST_REGISTERS) || head[0] != MAGIC) return false;
  const uint32_t program = head[1], mem_limit = head[2], size = head[3], first = head[4], length = head[5];
  if (mem_limit > size || first > size || length > size - first) return false;
  std::vector<unsigned char> bytes(size);
  if (size && fread(&bytes[0], 1, size, job) != size) return false;
  std::vector<beat_t> memory = to_beats(bytes);
  uint32_t error = 0, error_address = 0;
  uint64_t counters[AX_COUNTERS];
  axlora(&memory[0], registers, program, mem_limit, &error, &error_address, counters);
  put(out, error, 4);
  put(out, error_address, 4);
  for (int k = 0; k < AX_COUNTERS; k++) put(out, counters[k], 8);
  for (size_t k = first; k < (size_t)first + length; k++) {
    const int low = 8 * (k % AX_BEAT_BYTES);
    out.push_back((unsigned char)(uint32_t)memory[k / AX_BEAT_BYTES].range(low + 7, low));
  }
  return true;
}

// Where the result parts from the expected file: its first byte, or -1.
static long parted(const std::vector<unsigned char> &result, FILE *expected) {
  for (size_t k = 0; k < result.size(); k++)
    if (fgetc(expected) != result[k]) return (long)k;
  return fgetc(expected) == EOF ? -1 : (long)result.size();
}

int main(int argc, char **argv) {
  if (argc < 3 || argc > 4) {
    fprintf(stderr, "usage: %s JOB RESULT [EXPECTED]\n", argv[0]);
    return 2;
  }
  FILE *job = fopen(argv[1], "rb");
  if (!job) {
    fprintf(stderr, "%s: cannot be read\n", argv[1]);
    return 2;
  }
  std::vector<unsigned char> result;
  int starts = 0;
  for (int next = fgetc(job); next != EOF; next = fgetc(job), starts++) {
    ungetc(next, job);
    if (!run_start(job, result)) {
      fprintf(stderr, "%s: start %d is not whole\n", argv[1], starts);
      return 2;
    }
  }
  fclose(job);
  FILE *out = fopen(argv[2], "wb");
  if (!out || fwrite(&result[0], 1, result.size(), out) != result.size() || fclose(out)) {
    fprintf(stderr, "%s: cannot be written\n", argv[2]);
    return 2;
  }
  if (argc == 4) {
    FILE *expected = fopen(argv[3], "rb");
    const long byte = expected ? parted(result, expected) : 0;
    if (byte >= 0) {
      fprintf(stderr, "%s parts from %s at byte %ld\n", argv[2], argv[3], byte);
      return 1;
    }
    printf("%d starts: result as expected\n", starts);
  }
  return 0;
}
