// TBUF: a 32-bit word a token, written in beats, read at once by matrix and vector.
`default_nettype none
module token_buffer #(
    parameter BEAT_BYTES = 8,
    parameter TOKENS     = 64,
    parameter READERS    = 2,
    parameter ADDR       = $clog2(TOKENS)
) (
    input  wire                    i_clk,
    input  wire                    i_write,
    input  wire [ADDR-1:0]         i_write_beat,
    input  wire [8*BEAT_BYTES-1:0] i_write_data,
    input  wire [ADDR*READERS-1:0] i_token,
    output wire [32*READERS-1:0]   o_word
);
    localparam WORDS = BEAT_BYTES / 4;
    localparam BITS  = $clog2(WORDS);
    localparam BEATS = TOKENS / WORDS;
    localparam BADDR = $clog2(BEATS);
    wire unused_beat = &{1'b0, i_write_beat};
    genvar r;
    generate
        for (r = 0; r < READERS; r = r + 1) begin : g_reader
            wire [ADDR-1:0]         token = i_token[ADDR*r +: ADDR];
            wire [ADDR-1:0]         at    = token >> BITS;
            wire [ADDR-1:0]         part  = token - (at << BITS);
            wire [8*BEAT_BYTES-1:0] beat;
            wire                    unused_at = &{1'b0, at};
            ram_lut #(.WIDTH(8*BEAT_BYTES), .DEPTH(BEATS)) u_ram (
                .i_clk(i_clk), .i_write(i_write), .i_write_address(i_write_beat[BADDR-1:0]), .i_write_data(i_write_data),
                .i_read_address(at[BADDR-1:0]), .o_read_data(beat));
            assign o_word[32*r +: 32] = beat[32*part +: 32];
        end
    endgenerate
endmodule
`default_nettype wire
