// What Verilator's writer of FST files needs of LZ4, where the library's headers need not be installed: blocks of that format
// (https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md), by the first earlier place with the same four bytes.
#ifndef AXLORA_LZ4_H
#define AXLORA_LZ4_H
#include <cstdint>
#include <cstring>
#include <vector>

inline int LZ4_compressBound(int size) { return size + size / 255 + 16; }

namespace axlora_lz4 {
inline uint32_t four(const char* at) {
    uint32_t value;
    std::memcpy(&value, at, 4);
    return value;
}

inline char* length(char* out, int rest) {
    for (; rest >= 255; rest -= 255) *out++ = static_cast<char>(255);
    *out++ = static_cast<char>(rest);
    return out;
}

// Literals, then a match (none: match == 0) of at least four bytes, `distance` back.
inline char* sequence(char* out, const char* literals, int count, int match, int distance) {
    const int more = match ? match - 4 : 0;
    *out++ = static_cast<char>((count < 15 ? count : 15) << 4 | (more < 15 ? more : 15));
    if (count >= 15) out = length(out, count - 15);
    std::memcpy(out, literals, count);
    out += count;
    if (!match) return out;
    *out++ = static_cast<char>(distance & 255);
    *out++ = static_cast<char>(distance >> 8);
    return more >= 15 ? length(out, more - 15) : out;
}
}  // namespace axlora_lz4

// Compressed bytes at `to`, or 0 where LZ4_compressBound(size) do not fit.
inline int LZ4_compress_default(const char* from, char* to, int size, int room) {
    using namespace axlora_lz4;
    if (room < LZ4_compressBound(size)) return 0;
    std::vector<int> seen(1 << 14, -1);
    char* out = to;
    int begin = 0, at = 0;
    while (at + 12 < size) {  // the format's last bytes are literals
        int& place = seen[four(from + at) * 2654435761u >> 18];
        const int before = place;
        place = at;
        if (before < 0 || at - before > 65535 || four(from + before) != four(from + at)) {
            at++;
            continue;
        }
        int match = 4;
        while (at + match + 5 < size && from[before + match] == from[at + match]) match++;
        out = sequence(out, from + begin, at - begin, match, at - before);
        begin = at += match;
    }
    return static_cast<int>(sequence(out, from + begin, size - begin, 0, 0) - to);
}
#endif
