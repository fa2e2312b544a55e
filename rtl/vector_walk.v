// Order of VMAP: rows outside, words inside, one a cycle; then i_pipe - 1 cycles for the last to come through. Rows are counted, and
// within each bank of i_last_in_bank + 1 of them.
`default_nettype none
`include "axlora_isa.vh"
module vector_walk (
    input  wire        i_clk,
    input  wire        i_rst,
    input  wire        i_run,
    input  wire        i_begin,
    input  wire        i_empty,
    input  wire [5:0]  i_last_row,
    input  wire [2:0]  i_last_in_bank,
    input  wire [15:0] i_words,
    input  wire [4:0]  i_pipe,
    output wire        o_walk,
    output wire        o_row_end,
    output wire        o_bank_end,
    output reg  [5:0]  o_row,
    output reg  [2:0]  o_in_bank,
    output reg  [15:0] o_word,
    output wire        o_done
);
    localparam [1:0] IDLE = 2'd0, WALK = 2'd1, FINAL = 2'd2;
    reg  [1:0] state;
    reg  [4:0] count;
    wire [4:0] last = i_pipe - 5'd2;
    assign o_walk     = state == WALK;
    assign o_row_end  = o_word == i_words - 16'd1;
    assign o_bank_end = o_in_bank == i_last_in_bank;
    assign o_done     = state == FINAL && count == last && i_run;
    always @(posedge i_clk) begin
        if (i_begin) begin
            o_row     <= 6'd0;
            o_in_bank <= 3'd0;
            o_word    <= 16'd0;
        end else if (o_walk && i_run) begin
            o_word <= o_row_end ? 16'd0 : o_word + 16'd1;
            if (o_row_end) o_row <= o_row + 6'd1;
            if (o_row_end) o_in_bank <= o_bank_end ? 3'd0 : o_in_bank + 3'd1;
        end
        if (i_run) count <= state == FINAL && count != last ? count + 5'd1 : 5'd0;
        if (i_rst) begin
            state <= IDLE;
            count <= 5'd0;
        end else if (i_run)
            case (state)
                IDLE: if (i_begin) state <= i_empty ? FINAL : WALK;
                WALK: if (o_row_end && o_row == i_last_row) state <= FINAL;
                default: if (count == last) state <= IDLE;
            endcase
    end
endmodule
`default_nettype wire
