// Direct-mapped instruction memory of LINES lines of 64 bytes, filled in beats. Tags answer in the cycle of look-up,
// the instruction word one cycle later.
`default_nettype none
module icache #(
    parameter BEAT_BYTES = 8,
    parameter LINES      = 16
) (
    input  wire                    i_clk,
    input  wire                    i_clear,
    input  wire [31:0]             i_pc,
    output wire                    o_hit,
    output wire [127:0]            o_word,
    input  wire                    i_beat,
    input  wire                    i_last,
    input  wire [8*BEAT_BYTES-1:0] i_data
);
    localparam LOG   = $clog2(LINES);
    localparam BEATS = 64 / BEAT_BYTES;
    localparam LOGN  = $clog2(BEATS);
    localparam TAG   = 26 - LOG;
    wire [LOG-1:0]   line = i_pc[6 +: LOG];
    wire [TAG-1:0]   tag;
    reg  [LINES-1:0] valid;
    reg  [LOGN-1:0]  beat;
    wire             unused_pc = &{1'b0, i_pc[3:0]};

    ram_lut #(.WIDTH(TAG), .DEPTH(LINES)) u_tags (
        .i_clk(i_clk), .i_write(i_beat && i_last), .i_write_address(line), .i_write_data(i_pc[31 -: TAG]),
        .i_read_address(line), .o_read_data(tag));
    beat_ram #(.BEAT(BEAT_BYTES), .WORD(16), .WORDS(4*LINES)) u_words (
        .i_clk(i_clk), .i_write(i_beat), .i_write_beat({line, beat}), .i_write_data(i_data),
        .i_read(1'b1), .i_read_word(i_pc[4 +: LOG+2]), .o_read_data(o_word));
    assign o_hit = valid[line] && tag == i_pc[31 -: TAG];
    always @(posedge i_clk) begin
        if (i_clear) begin
            valid <= {LINES{1'b0}};
            beat  <= {LOGN{1'b0}};
        end else if (i_beat) begin
            beat <= beat + 1'b1;
            if (i_last) valid[line] <= 1'b1;
        end
    end
endmodule
`default_nettype wire
