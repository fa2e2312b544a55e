// A board in Verilator whose serial line is a pseudo-terminal: prints the terminal's path, then runs until standard input closes.
// Options: --divider N (cycles a bit at the host's end of the line), and faults: --lose-in N, --lose-out N (every Nth byte is
// lost), --reset-after N (reset once when N bytes have come), --mute (answers nothing).
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>

#include "Vsim_board.h"
#include "verilated.h"

namespace {

struct Options {
    uint64_t divider = 4, lose_in = 0, lose_out = 0, reset_after = 0;
    bool mute = false;
};

Options parse(int argc, char **argv) {
    Options found;
    for (int n = 1; n < argc; n++) {
        const char *next = n + 1 < argc ? argv[n + 1] : "0";
        if (!strcmp(argv[n], "--divider")) found.divider = strtoull(next, nullptr, 10);
        if (!strcmp(argv[n], "--lose-in")) found.lose_in = strtoull(next, nullptr, 10);
        if (!strcmp(argv[n], "--lose-out")) found.lose_out = strtoull(next, nullptr, 10);
        if (!strcmp(argv[n], "--reset-after")) found.reset_after = strtoull(next, nullptr, 10);
        if (!strcmp(argv[n], "--mute")) found.mute = true;
    }
    return found;
}

// The host's end of the line towards the board: bytes to bits.
struct Sender {
    std::deque<uint8_t> bytes;
    uint64_t left = 0, bits = 0;
    unsigned shift = 1;
    bool busy() const { return bits != 0 || !bytes.empty(); }
    bool step(uint64_t divider) {
        if (bits == 0 && !bytes.empty()) {
            shift = (unsigned(bytes.front()) << 1) | 0x200u;
            bytes.pop_front();
            bits = 10;
            left = divider;
        }
        bool level = bits == 0 || (shift & 1);
        if (bits != 0 && --left == 0) {
            shift >>= 1;
            bits--;
            left = divider;
        }
        return level;
    }
};

// ... and from the board: bits to bytes.
struct Receiver {
    uint64_t left = 0, bits = 0;
    unsigned shift = 0;
    int step(bool level, uint64_t divider) {
        if (bits == 0) {
            if (level) return -1;
            bits = 10;
            left = divider / 2;
        }
        if (--left != 0) return -1;
        left = divider;
        shift = (shift >> 1) | (level ? 0x200u : 0u);
        return --bits == 0 ? int((shift >> 1) & 0xFF) : -1;
    }
};

int terminal() {
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) || unlockpt(master)) return -1;
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);  // kept open: a host may come and go
    termios raw;
    if (slave < 0 || tcgetattr(slave, &raw)) return -1;
    cfmakeraw(&raw);
    tcsetattr(slave, TCSANOW, &raw);
    fcntl(master, F_SETFL, O_NONBLOCK);
    printf("%s\n", ptsname(master));
    fflush(stdout);
    return master;
}

}  // namespace

int main(int argc, char **argv) {
    const Options options = parse(argc, argv);
    VerilatedContext context;
    Vsim_board board{&context};
    const int master = terminal();
    if (master < 0) {
        perror("no pseudo-terminal");
        return 1;
    }
    Sender sender;
    Receiver receiver;
    uint64_t came = 0, went = 0, quiet = 0, reset = 16;
    bool was_reset = options.reset_after == 0;
    for (uint64_t cycle = 0;; cycle++) {
        if (cycle % 256 == 0) {
            pollfd files[2] = {{0, POLLIN, 0}, {master, POLLIN, 0}};
            const bool idle = quiet > 100000 && !board.o_busy;
            poll(files, 2, idle ? 50 : 0);
            char text;
            if (files[0].revents && read(0, &text, 1) <= 0) return 0;
            uint8_t data[4096];
            const ssize_t count = sender.bytes.size() < 65536 ? read(master, data, sizeof data) : 0;
            for (ssize_t n = 0; n < count; n++) {
                came++;
                if (options.lose_in == 0 || came % options.lose_in != 0) sender.bytes.push_back(data[n]);
            }
        }
        if (!was_reset && came >= options.reset_after) {
            was_reset = true;
            reset = 16;
        }
        board.i_rst = reset != 0;
        if (reset != 0) reset--;
        board.i_rx = sender.step(options.divider);
        const int byte = receiver.step(board.o_tx, options.divider);
        quiet = sender.busy() || receiver.bits != 0 ? 0 : quiet + 1;
        if (byte >= 0 && !options.mute && (options.lose_out == 0 || ++went % options.lose_out != 0)) {
            const uint8_t one = uint8_t(byte);
            if (write(master, &one, 1) < 0) return 1;
        }
        board.i_clk = 1;
        board.eval();
        board.i_clk = 0;
        board.eval();
        if (board.o_wrong) return 3;
    }
}
