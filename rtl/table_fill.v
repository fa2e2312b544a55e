// When the tables of the lanes are filled, and with what. A set is the groups of a row whose codes have one class: it has tables
// of its own. Two copies of them: the next set's are filled beside the look-ups of this one, from the cycle in which its first
// group is looked up (i_begin) on; all lanes go in step, so that one such unit is enough.
// An activation is read ahead, once a row; the codebook is written to the ports, an entry a cycle, when CODEBOOK sets it.
`default_nettype none
`include "axlora_isa.vh"
module table_fill #(
    parameter MULTIPLIERS = 1
) (
    input  wire         i_clk,
    input  wire         i_rst,
    input  wire         i_table_write,
    input  wire [3:0]   i_table_index,
    input  wire         i_clear,
    input  wire         i_unsigned,
    input  wire         i_start,
    input  wire [15:0]  i_last_block,
    input  wire [15:0]  i_line,
    input  wire         i_begin,
    input  wire         i_codebook_set,
    input  wire [127:0] i_codebook,
    output wire         o_read,
    output reg  [15:0]  o_read_line,
    output wire         o_load,             // the activation that was read is the next set's
    output wire         o_write,
    output reg  [3:0]   o_entry,            // written in every bank
    output reg          o_unsigned,
    output reg          o_side,             // the copy that is filled
    output reg          o_look_side,        // the copy of the set that began last
    output reg          o_ready,            // the next set's copy is full
    output reg          o_codebook_write,
    output reg  [3:0]   o_codebook_entry,
    output wire [7:0]   o_codebook_data
);
    localparam integer LAST_VALUE = `AXL_MULTIPLES / MULTIPLIERS - 1;
    localparam [3:0] LAST = LAST_VALUE[3:0];
    // The classes of a row's sets.
    reg  [15:0] kinds;
    reg  [3:0]  last_set;
    wire [3:0]  place = i_table_index == 4'd0 ? 4'd0 : last_set + 4'd1;
    always @(posedge i_clk)
        if (i_table_write && i_clear) begin
            kinds[place] <= i_unsigned;
            last_set     <= place;
        end

    reg  [15:0] left;    // blocks behind the one whose activation is read
    reg  [3:0]  set;
    reg  [2:0]  coming;  // the activation: read, in the bank's register, in the lane's
    reg         known, more, busy, first;
    wire        end_row = set == last_set;
    wire        full    = o_write && o_entry == LAST;
    assign o_read  = coming[0];
    assign o_load  = more && known && (!busy || full);
    assign o_write = busy && (o_entry != 4'd0 || first || i_begin);
    always @(posedge i_clk) begin
        if (i_start) begin
            o_read_line <= i_line;
            left        <= i_last_block;
            set         <= 4'd0;
        end else if (o_load) begin
            set <= end_row ? 4'd0 : set + 4'd1;
            if (end_row) o_read_line <= o_read_line + 16'd1;
            if (end_row) left <= left - 16'd1;
        end
        if (o_load) o_unsigned <= kinds[set];
        if (i_rst) begin
            {coming, known, more, busy, first, o_ready, o_side, o_look_side} <= 10'd0;
            o_entry <= 4'd0;
        end else if (i_start) begin
            {coming, known, more, busy, first, o_ready, o_side, o_look_side} <= {3'b001, 7'b0101001};
            o_entry <= 4'd0;
        end else begin
            coming <= {coming[1:0], o_load && end_row && left != 16'd0};
            known  <= coming[2] || (known && !(o_load && end_row));
            if (o_load && end_row && left == 16'd0) more <= 1'b0;
            busy <= o_load || (busy && !full);
            if (o_write) {first, o_entry} <= {1'b0, full ? 4'd0 : o_entry + 4'd1};
            o_side      <= o_side ^ full;
            o_ready     <= full || (o_ready && !i_begin);
            o_look_side <= o_look_side ^ i_begin;
        end
    end

    assign o_codebook_data = i_codebook[8*o_codebook_entry +: 8];
    always @(posedge i_clk)
        if (i_rst || i_codebook_set) {o_codebook_write, o_codebook_entry} <= 5'b10000;
        else begin
            o_codebook_write <= o_codebook_write && o_codebook_entry != 4'd15;
            o_codebook_entry <= o_codebook_entry + 4'd1;
        end
endmodule
`default_nettype wire
