// MATMUL's frame: read the tokens' slots, walk the segments and write the active ones to the tables of the lanes and the tree,
// run (g0 = a + 2 + tokens + segments) until the last pop, drain PIPE - 1 more cycles.
`default_nettype none
`include "axlora_isa.vh"
module matrix_control #(
    parameter TOKENS      = 2,
    parameter TBUF_TOKENS = 64,
    parameter PIPE        = 11
) (
    input  wire                       i_clk,
    input  wire                       i_rst,
    input  wire                       i_run,
    input  wire                       i_accept,
    input  wire [`AXL_ENTRY_BITS-1:0] i_entry,
    output wire                       o_single,
    output wire                       o_done,
    output reg  [127:0]               o_codebook,
    output wire [15:0]                o_tbuf_token,
    input  wire [3:0]                 i_slot,
    output wire                       o_table_write,
    output reg  [3:0]                 o_table_index,
    output wire [68+TOKENS:0]         o_table_lane,
    output wire [65+TOKENS:0]         o_table_tree,
    output wire                       o_start,
    output wire [3:0]                 o_last_segment,
    output reg  [15:0]                o_last_block,
    output reg  [15:0]                o_line,
    output reg  [15:0]                o_acc_offset,
    output reg  [11:0]                o_last_scale,   // all ones: no blocks of scales
    output reg                        o_first,
    output reg  [1:0]                 o_short,
    input  wire                       i_last_pop,
    output wire [3:0]                 o_error
);
    localparam [2:0] IDLE = 3'd0, SLOTS = 3'd1, SEGMENTS = 3'd2, RUN = 3'd3, DRAIN = 3'd4, EMPTY = 3'd5;
    localparam [16:0] DEPTH = TBUF_TOKENS[16:0];
    localparam integer LAST_VALUE = PIPE - 2;
    localparam [4:0] LAST = LAST_VALUE[4:0];
    reg  [2:0]  state;
    reg  [4:0]  wait_count;
    reg  [3:0]  step, last_token, last_segment;
    reg  [15:0] token;
    reg  [4*TOKENS-1:0] slots;
    reg  [1:0]  last_class;
    reg         any;

    wire [5:0]  op      = i_entry[`AXL_ENTRY_OP];
    wire [5:0]  sub     = i_entry[`AXL_ENTRY_SUB];
    wire [16:0] misc    = i_entry[`AXL_ENTRY_MISC];
    wire [31:0] x       = i_entry[`AXL_ENTRY_X];
    wire [15:0] y       = i_entry[`AXL_ENTRY_Y];
    wire [15:0] z       = i_entry[`AXL_ENTRY_Z];
    wire        matmul  = i_accept && op == `AXL_OP_MATMUL;
    wire        unused_entry = &{1'b0, i_entry, sub};
    assign o_single = op != `AXL_OP_MATMUL;

    wire [71:0] w_read;
    wire [49:0] a_read;
    reg  [71:0] w;
    reg  [49:0] a;
    segments u_segments (
        .i_clk(i_clk), .i_write_w(i_accept && op == `AXL_OP_SEGW), .i_write_a(i_accept && op == `AXL_OP_SEGA),
        .i_segment(sub[`AXL_SEGW_SEGMENT]), .i_misc(misc), .i_x(x), .i_y(y), .i_z(z), .i_index(step), .o_w(w_read), .o_a(a_read));
    always @(posedge i_clk) {w, a} <= {w_read, a_read};
    wire [3:0]  slot, format;
    wire [15:0] group_stride, block_stride, groups, line, scale_stride, scale_line, acc;
    wire        sums, scaled;
    assign {slot, format, group_stride, block_stride, groups, line} = w;
    assign {sums, scaled, scale_stride, scale_line, acc} = a;
    initial o_codebook = 128'd0;
    always @(posedge i_clk)
        if (i_accept && op == `AXL_OP_CODEBOOK) begin
            if (sub[`AXL_CODEBOOK_HALF]) o_codebook[127:64] <= {z, y, x};
            else o_codebook[63:0] <= {z, y, x};
        end

    // The segment read in the step before: its tokens, its class, whether it takes part.
    wire here = state == SEGMENTS && step != 4'd0;
    reg  [TOKENS-1:0] mask;
    integer t;
    always @*
        for (t = 0; t < TOKENS; t = t + 1)
            mask[t] = t[3:0] <= last_token && (slot == 4'd0 || slots[4*t +: 4] == slot);
    wire [1:0]  code_class  = format < `AXL_FORMAT_U2 ? 2'd0 : format < `AXL_FORMAT_CB4 ? 2'd1 : 2'd2;
    wire        active = groups != 16'd0 && mask != {TOKENS{1'b0}};
    wire        clear  = !any || code_class != last_class;
    wire        seg_end = here && step == last_segment + 4'd1;
    reg  [1:0]  row;
    wire [2:0]  row_next = !active ? {1'b0, row} : {1'b0, row} + (groups > 16'd2 ? 3'd3 : {1'b0, groups[1:0]});
    wire        refused  = here && active && scaled && o_last_scale == 12'hFFF;
    wire        work     = (active || any) && o_last_block != 16'hFFFF;  // all ones: no blocks

    assign o_tbuf_token  = token;
    assign o_table_write = here && active;
    wire [15:0] last_group = groups - 16'd1;
    assign o_table_lane  = {mask, clear, format, group_stride, block_stride, last_group, line};
    assign o_table_tree  = {mask, sums, scaled, scale_stride, scale_line, acc, last_group};
    assign o_start       = i_run && seg_end && work && !refused;
    reg  [3:0] count;
    assign o_last_segment = count - 4'd1;
    assign o_done  = i_run && ((state == DRAIN && wait_count == LAST) || state == EMPTY);
    assign o_error = refused ? `AXL_ERROR_ILLEGAL
                   : state == SLOTS && {1'b0, token} >= DEPTH ? `AXL_ERROR_LOCAL_ADDRESS : `AXL_ERROR_NONE;

    always @(posedge i_clk) begin
        wait_count <= state == DRAIN ? wait_count + 5'd1 : 5'd0;
        if (matmul) begin
            step           <= 4'd0;
            last_token     <= {1'b0, misc[`AXL_MATMUL_TOKENS]};
            last_segment   <= sub[`AXL_MATMUL_SEGMENTS] - 4'd1;
            token          <= x[`AXL_MATMUL_TOKEN];
            o_acc_offset   <= x[`AXL_MATMUL_ACC];
            o_line         <= y;
            o_last_block   <= z - 16'd1;
            o_first        <= misc[`AXL_MATMUL_FIRST];
            o_last_scale   <= misc[`AXL_MATMUL_PER_GROUP] - 12'd1;
            o_short        <= 2'd0;
            o_table_index  <= 4'd0;
            count          <= 4'd0;
            row            <= 2'd0;
            any            <= 1'b0;
        end else if (state == SLOTS) begin
            token <= token + 16'd1;
            step  <= step == last_token ? 4'd0 : step + 4'd1;
            for (t = 0; t < TOKENS; t = t + 1) if (step == t[3:0]) slots[4*t +: 4] <= i_slot;
        end else if (state == SEGMENTS) begin
            step <= step + 4'd1;
            if (here && active) begin
                o_table_index <= o_table_index + 4'd1;
                count         <= count + 4'd1;
                any           <= 1'b1;
                last_class    <= code_class;
            end
            if (here) row <= row_next > 3'd3 ? 2'd3 : row_next[1:0];
            if (here) o_short <= row_next > 3'd2 ? 2'd0 : row_next[1:0];
        end
        if (i_rst) state <= IDLE;
        else if (i_run)
            case (state)
                IDLE: if (matmul) state <= SLOTS;
                SLOTS: if (step == last_token) state <= SEGMENTS;
                SEGMENTS: if (seg_end) state <= work ? RUN : EMPTY;
                RUN: if (i_last_pop) state <= DRAIN;
                DRAIN: if (wait_count == LAST) state <= IDLE;
                default: state <= IDLE;
            endcase
    end
endmodule
`default_nettype wire
