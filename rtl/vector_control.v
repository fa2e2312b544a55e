// Order of VREQ and VQT: banks outside (of VREQ), tokens, column groups, then C cycles a group of which the first P/V carry elements.
// VQT looks at a token's slot for a cycle (i_slot: of the token one cycle before), then walks it twice (o_second: quantize),
// draining VPIPE cycles after each walk. All outputs are of sequence stage 0.
`default_nettype none
`include "axlora_isa.vh"
module vector_control #(
    parameter PORTS        = 4,
    parameter VECTOR_LANES = 2
) (
    input  wire        i_clk,
    input  wire        i_rst,
    input  wire        i_run,
    input  wire        i_begin,
    input  wire        i_quantize,
    input  wire        i_two,
    input  wire [2:0]  i_last_token,
    input  wire [5:0]  i_last_bank,
    input  wire [15:0] i_columns,
    input  wire [3:0]  i_only,
    input  wire [3:0]  i_slot,
    output wire        o_done,
    output wire        o_token_check,
    output wire        o_element,
    output wire        o_read_first,
    output wire        o_read_second,
    output reg  [2:0]  o_token,
    output reg  [15:0] o_column,
    output wire [3:0]  o_chunk,
    output reg         o_second,
    output wire        o_bank_end,
    output wire        o_fresh,
    output wire        o_latch
);
    localparam [2:0] IDLE = 3'd0, LOOK = 3'd1, WALK = 3'd2, DRAIN = 3'd3, FINAL = 3'd4;
    localparam integer CHUNKS_VALUE = PORTS / VECTOR_LANES;
    localparam [4:0] CHUNKS = CHUNKS_VALUE[4:0];
    localparam [4:0] TWO = CHUNKS == 5'd1 ? 5'd2 : CHUNKS;
    reg  [2:0]  state, last_token;
    reg  [3:0]  only;
    reg  [5:0]  banks;  // behind the one at hand
    reg  [4:0]  count;
    reg  [4:0]  chunk;
    reg  [15:0] columns;
    reg         quantize, two, fresh;
    wire [4:0]  cycles  = two ? TWO : CHUNKS;
    wire        skip    = quantize && fresh && only != 4'd0 && only != i_slot;
    wire        empty   = columns == 16'd0;
    wire        end_c   = chunk == cycles - 5'd1;
    wire        end_n   = o_column == columns - 16'd1;
    wire        end_t   = o_token == last_token;
    assign o_token_check = state == WALK && (fresh || !quantize);
    wire   step          = state == WALK && !skip && !empty;
    assign o_element     = step && chunk < CHUNKS;
    assign o_read_first  = step && chunk == 5'd0;
    assign o_read_second = step && chunk == 5'd1;
    assign o_chunk       = chunk[3:0];
    assign o_bank_end    = step && end_c && end_n && end_t && !quantize;
    assign o_fresh       = state == WALK && fresh && !o_second;
    assign o_latch       = state == DRAIN && !o_second && count == `AXL_VPIPE - 5'd1;
    assign o_done        = state == FINAL && count == `AXL_VPIPE - 5'd2 && i_run;
    wire   next_token    = (state == WALK && skip) || (state == DRAIN && o_second && count == `AXL_VPIPE - 5'd1);
    always @(posedge i_clk) begin
        if (i_begin) begin
            quantize   <= i_quantize;
            two        <= i_two && !i_quantize;
            last_token <= i_last_token;
            columns    <= i_columns;
            only       <= i_only;
            banks      <= i_quantize ? 6'd0 : i_last_bank;
            o_token    <= 3'd0;
            o_column   <= 16'd0;
            chunk      <= 5'd0;
            o_second   <= 1'b0;
            fresh      <= 1'b1;
        end else if (i_run) begin
            if (step) begin
                fresh <= 1'b0;
                chunk <= end_c ? 5'd0 : chunk + 5'd1;
                if (end_c) o_column <= end_n ? 16'd0 : o_column + 16'd1;
                if (end_c && end_n && !quantize) o_token <= end_t ? 3'd0 : o_token + 3'd1;
                if (o_bank_end) banks <= banks - 6'd1;
            end
            if (o_latch) begin
                o_second <= 1'b1;
                fresh    <= 1'b0;
            end
            if (next_token) begin
                o_token  <= o_token + 3'd1;
                o_second <= 1'b0;
                fresh    <= 1'b1;
            end
        end
        if (i_run) count <= (state == DRAIN || state == FINAL) && count != `AXL_VPIPE - 5'd1 ? count + 5'd1 : 5'd0;
        if (i_rst) begin
            state <= IDLE;
            count <= 5'd0;
        end else if (i_run)
            case (state)
                IDLE: if (i_begin) state <= i_columns == 16'd0 && !i_quantize ? FINAL : i_quantize ? LOOK : WALK;
                LOOK: state <= WALK;
                WALK:
                    if (skip) state <= end_t ? FINAL : LOOK;
                    else if (empty) begin
                        state <= DRAIN;
                        count <= 5'd1;
                    end else if (end_c && end_n) state <= quantize ? DRAIN : end_t && banks == 6'd0 ? FINAL : WALK;
                DRAIN:
                    if (count == `AXL_VPIPE - 5'd1)
                        state <= !o_second ? (empty ? DRAIN : WALK) : end_t ? FINAL : LOOK;
                FINAL: if (count == `AXL_VPIPE - 5'd2) state <= IDLE;
                default: state <= IDLE;
            endcase
    end
endmodule
`default_nettype wire
