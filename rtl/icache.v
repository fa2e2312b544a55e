// Direct-mapped instruction memory of LINES lines of 64 bytes, filled in beats. A line has its place from the cycle in which it
// is asked for (o_known) and can be read when its last beat is there (o_hit). Tags answer in the cycle of look-up, the
// instruction word one cycle later. Lines arrive in the order in which they were asked for; one whose place was given away
// meanwhile is written, and never valid.
`default_nettype none
`include "axlora_isa.vh"
module icache #(
    parameter BEAT_BYTES = 8,
    parameter LINES      = 16
) (
    input  wire                    i_clk,
    input  wire                    i_clear,
    input  wire [31:0]             i_pc,
    output wire                    o_known,
    output wire                    o_hit,
    output wire [127:0]            o_word,
    input  wire [25:0]             i_ahead,
    output wire                    o_ahead_known,
    input  wire                    i_ask,
    input  wire [25:0]             i_ask_line,
    input  wire                    i_beat,
    input  wire                    i_last,
    input  wire [8*BEAT_BYTES-1:0] i_data
);
    localparam LOG   = $clog2(LINES);
    localparam BEATS = 64 / BEAT_BYTES;
    localparam LOGN  = $clog2(BEATS);
    localparam TAG   = 26 - LOG;
    localparam LOGF  = $clog2(`AXL_FETCH_FLIGHTS);
    wire [LOG-1:0]   place = i_pc[6 +: LOG], ahead = i_ahead[LOG-1:0], asked = i_ask_line[LOG-1:0];
    wire [TAG-1:0]   tag, ahead_tag;
    reg  [LINES-1:0] known, valid;
    reg  [LOGN-1:0]  beat;
    wire             unused_pc = &{1'b0, i_pc[3:0]};

    ram_lut #(.WIDTH(TAG), .DEPTH(LINES)) u_tags (
        .i_clk(i_clk), .i_write(i_ask), .i_write_address(asked), .i_write_data(i_ask_line[25 -: TAG]), .i_read_address(place),
        .o_read_data(tag));
    ram_lut #(.WIDTH(TAG), .DEPTH(LINES)) u_tags_ahead (
        .i_clk(i_clk), .i_write(i_ask), .i_write_address(asked), .i_write_data(i_ask_line[25 -: TAG]), .i_read_address(ahead),
        .o_read_data(ahead_tag));
    assign o_known       = known[place] && tag == i_pc[31 -: TAG];
    assign o_hit         = valid[place] && tag == i_pc[31 -: TAG];
    assign o_ahead_known = known[ahead] && ahead_tag == i_ahead[25 -: TAG];

    // Places of the lines in flight, in order
    reg  [LOG-1:0]                flight [0:`AXL_FETCH_FLIGHTS-1];
    reg  [`AXL_FETCH_FLIGHTS-1:0] live;
    reg  [LOGF-1:0]               head, tail;
    wire [LOG-1:0]                arriving = flight[head];
    integer f;
    beat_ram #(.BEAT(BEAT_BYTES), .WORD(16), .WORDS(4*LINES)) u_words (
        .i_clk(i_clk), .i_write(i_beat), .i_write_beat({arriving, beat}), .i_write_data(i_data),
        .i_read(1'b1), .i_read_word(i_pc[4 +: LOG+2]), .o_read_data(o_word));
    always @(posedge i_clk) begin
        if (i_ask) flight[tail] <= asked;
        if (i_clear) begin
            known <= {LINES{1'b0}};
            valid <= {LINES{1'b0}};
            beat  <= {LOGN{1'b0}};
            head  <= {LOGF{1'b0}};
            tail  <= {LOGF{1'b0}};
        end else begin
            if (i_beat) beat <= beat + 1'b1;
            if (i_beat && i_last) begin
                head <= head + 1'b1;
                if (live[head]) valid[arriving] <= 1'b1;
            end
            if (i_ask) begin
                tail         <= tail + 1'b1;
                known[asked] <= 1'b1;
                valid[asked] <= 1'b0;
                for (f = 0; f < `AXL_FETCH_FLIGHTS; f = f + 1) if (flight[f] == asked) live[f] <= 1'b0;
                live[tail] <= 1'b1;
            end
        end
    end
endmodule
`default_nettype wire
