// A buffer written in beats of BEAT bytes and read in words of WORD bytes, both powers of two.
// WORD >= BEAT: a word is WORD/BEAT beats side by side; WORD < BEAT: a beat holds BEAT/WORD words.
`default_nettype none
module beat_ram #(
    parameter BEAT  = 8,
    parameter WORD  = 16,
    parameter WORDS = 64,
    parameter BEATS = WORD * WORDS / BEAT,
    parameter WADDR = $clog2(BEATS),
    parameter RADDR = $clog2(WORDS)
) (
    input  wire              i_clk,
    input  wire              i_write,
    input  wire [WADDR-1:0]  i_write_beat,
    input  wire [8*BEAT-1:0] i_write_data,
    input  wire              i_read,
    input  wire [RADDR-1:0]  i_read_word,
    output wire [8*WORD-1:0] o_read_data
);
    genvar g;
    generate
        if (WORD == BEAT) begin : g_same
            ram_sync #(.WIDTH(8*BEAT), .DEPTH(WORDS)) u_ram (
                .i_clk(i_clk), .i_write(i_write), .i_write_address(i_write_beat), .i_write_data(i_write_data),
                .i_read(i_read), .i_read_address(i_read_word), .o_read_data(o_read_data));
        end else if (WORD > BEAT) begin : g_wide
            localparam PARTS = WORD / BEAT;
            localparam BITS  = $clog2(PARTS);
            for (g = 0; g < PARTS; g = g + 1) begin : g_part
                ram_sync #(.WIDTH(8*BEAT), .DEPTH(WORDS)) u_ram (
                    .i_clk(i_clk), .i_write(i_write && i_write_beat[BITS-1:0] == g[BITS-1:0]),
                    .i_write_address(i_write_beat[WADDR-1:BITS]), .i_write_data(i_write_data),
                    .i_read(i_read), .i_read_address(i_read_word), .o_read_data(o_read_data[8*BEAT*g +: 8*BEAT]));
            end
        end else begin : g_narrow
            localparam BITS = $clog2(BEAT / WORD);
            wire [8*BEAT-1:0] beat;
            reg  [BITS-1:0]   part;
            initial part = {BITS{1'b0}};
            ram_sync #(.WIDTH(8*BEAT), .DEPTH(BEATS)) u_ram (
                .i_clk(i_clk), .i_write(i_write), .i_write_address(i_write_beat), .i_write_data(i_write_data),
                .i_read(i_read), .i_read_address(i_read_word[RADDR-1:BITS]), .o_read_data(beat));
            always @(posedge i_clk) if (i_read) part <= i_read_word[BITS-1:0];
            assign o_read_data = beat[8*WORD*part +: 8*WORD];
        end
    endgenerate
endmodule
`default_nettype wire
