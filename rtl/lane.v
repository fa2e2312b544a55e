// A lane: front (S, F, W, D), issue register, product engine (I and travel), FIFO. Event outputs are one cycle late.
// Lanes of tables go in step and two groups of an accumulator are a fill apart: what is pushed is popped in the next cycle.
`default_nettype none
`include "axlora_isa.vh"
module lane #(
    parameter ENGINE          = `AXL_ENGINE_REUSE,
    parameter LANE            = 0,
    parameter LANES           = 8,
    parameter PORTS           = 4,
    parameter MULTIPLIERS     = 1,
    parameter LATENCY         = 3,
    parameter TOKENS          = 2,
    parameter FIFO_DEPTH      = 8,
    parameter ACTIVATION_BITS = 8,
    parameter INDEX_ENTRIES   = 256,
    parameter BEAT_BYTES      = 8,
    parameter WBUF_LINES      = 4096,
    parameter ABUF_LINES      = 512,
    parameter UBUF_LINES      = 64,
    parameter PBITS           = ACTIVATION_BITS + 8,
    parameter UADDR           = $clog2(UBUF_LINES)
) (
    input  wire                       i_clk,
    input  wire                       i_rst,
    input  wire                       i_table_write,
    input  wire [3:0]                 i_table_index,
    input  wire [68+TOKENS:0]         i_table,
    input  wire                       i_start,
    input  wire [3:0]                 i_last_segment,
    input  wire [15:0]                i_last_block,
    input  wire [15:0]                i_line,
    input  wire [127:0]               i_entries,
    input  wire                       i_wbuf_write,
    input  wire [23:0]                i_key,
    input  wire                       i_abuf_write,
    input  wire [16:0]                i_write_beat,
    input  wire [8*BEAT_BYTES-1:0]    i_write_data,
    input  wire [TOKENS-1:0]          i_ubuf_write,
    input  wire [UADDR-1:0]           i_ubuf_line,
    input  wire [ACTIVATION_BITS-1:0] i_ubuf_data,
    input  wire                       i_read,
    input  wire [15:0]                i_read_line,
    input  wire                       i_load,
    input  wire                       i_write,
    input  wire [3:0]                 i_entry,
    input  wire                       i_unsigned,
    input  wire                       i_side,
    input  wire                       i_look_side,
    input  wire                       i_ready,
    input  wire                       i_codebook_write,
    input  wire [3:0]                 i_codebook_entry,
    input  wire [7:0]                 i_codebook_data,
    output wire                       o_begin,
    output wire                       o_some,
    input  wire                       i_pop,
    output wire [PORTS*TOKENS*PBITS-1:0] o_data,
    output wire                       o_outside,
    output reg                        o_group,
    output reg                        o_miss,
    output reg                        o_full,
    output reg  [7:0]                 o_multiplications,
    output reg  [7:0]                 o_zeros
);
    localparam XBITS = TOKENS * ACTIVATION_BITS;
    localparam CBITS = $clog2(PORTS + 1);
    wire                 next_valid, next_codebook, next_signed, next_clear;
    wire [8*PORTS-1:0]   next_index;
    wire [PORTS-1:0]     next_negative, next_zero;
    wire [TOKENS-1:0]    next_mask;
    wire [XBITS-1:0]     next_x, ahead_x;
    wire                 leave, first, more, credit, push;
    wire [4:0]           products;
    wire [PORTS*TOKENS*PBITS-1:0] data;
    // The issue register
    reg                  valid, codebook, is_signed, clear;
    reg  [8*PORTS-1:0]   index;
    reg  [PORTS-1:0]     negative, zero;
    reg  [TOKENS-1:0]    mask;
    reg  [XBITS-1:0]     x;
    wire                 load = !valid || leave;
    always @(posedge i_clk) begin
        if (load) {codebook, is_signed, clear, index, negative, zero, mask, x}
            <= {next_codebook, next_signed, next_clear, next_index, next_negative, next_zero, next_mask, next_x};
        if (i_rst) valid <= 1'b0;
        else if (load) valid <= next_valid;
    end
    lane_front #(.ENGINE(ENGINE), .LANE(LANE), .LANES(LANES), .PORTS(PORTS), .TOKENS(TOKENS), .ACTIVATION_BITS(ACTIVATION_BITS),
                 .BEAT_BYTES(BEAT_BYTES), .WBUF_LINES(WBUF_LINES), .ABUF_LINES(ABUF_LINES), .UBUF_LINES(UBUF_LINES)) u_front (
        .i_clk(i_clk), .i_rst(i_rst), .i_table_write(i_table_write), .i_table_index(i_table_index), .i_table(i_table),
        .i_start(i_start), .i_last_segment(i_last_segment), .i_last_block(i_last_block), .i_line(i_line),
        .i_wbuf_write(i_wbuf_write), .i_key(i_key), .i_abuf_write(i_abuf_write), .i_write_beat(i_write_beat),
        .i_write_data(i_write_data),
        .i_ubuf_write(i_ubuf_write), .i_ubuf_line(i_ubuf_line), .i_ubuf_data(i_ubuf_data), .i_read(i_read),
        .i_read_line(i_read_line), .i_leave(load),
        .o_valid(next_valid), .o_index(next_index), .o_negative(next_negative), .o_zero(next_zero), .o_codebook(next_codebook),
        .o_signed(next_signed), .o_clear(next_clear), .o_mask(next_mask), .o_x(next_x),
        .o_ahead_x(ahead_x), .o_outside(o_outside));
    generate
        if (ENGINE == `AXL_ENGINE_TABLE) begin : g_table
            reg some;
            reg [PORTS*TOKENS*PBITS-1:0] pushed;
            engine_table #(.PORTS(PORTS), .MULTIPLIERS(MULTIPLIERS), .LATENCY(LATENCY), .TOKENS(TOKENS),
                           .ACTIVATION_BITS(ACTIVATION_BITS)) u_engine (
                .i_clk(i_clk), .i_rst(i_rst), .i_valid(valid), .i_index(index), .i_codebook(codebook), .i_clear(clear),
                .i_x(ahead_x), .i_load(i_load), .i_write(i_write), .i_entry(i_entry), .i_unsigned(i_unsigned), .i_side(i_side),
                .i_look_side(i_look_side), .i_ready(i_ready), .i_codebook_write(i_codebook_write),
                .i_codebook_entry(i_codebook_entry), .i_codebook_data(i_codebook_data), .o_first(first), .o_more(more),
                .o_begin(o_begin), .o_products(products), .o_push(push), .o_data(data));
            always @(posedge i_clk) begin
                some   <= push && !i_rst;
                pushed <= data;
            end
            assign leave  = first;
            assign credit = 1'b1;
            assign {o_some, o_data} = {some, pushed};
            wire unused = &{1'b0, i_pop, credit, i_entries, is_signed, negative, x};
        end else if (ENGINE == `AXL_ENGINE_REUSE) begin : g_reuse
            engine_reuse #(.PORTS(PORTS), .MULTIPLIERS(MULTIPLIERS), .LATENCY(LATENCY), .TOKENS(TOKENS),
                           .ACTIVATION_BITS(ACTIVATION_BITS), .INDEX_ENTRIES(INDEX_ENTRIES)) u_engine (
                .i_clk(i_clk), .i_rst(i_rst), .i_load(load), .i_next_index(next_index), .i_next_zero(next_zero),
                .i_next_clear(next_clear), .i_valid(valid), .i_credit(credit), .i_index(index), .i_negative(negative),
                .i_zero(zero), .i_codebook(codebook), .i_signed(is_signed), .i_clear(clear), .i_x(x), .i_entries(i_entries),
                .o_first(first), .o_more(more), .o_leave(leave), .o_products(products), .o_push(push), .o_data(data));
        end else begin : g_mac
            engine_mac #(.PORTS(PORTS), .MULTIPLIERS(MULTIPLIERS), .LATENCY(LATENCY), .TOKENS(TOKENS),
                         .ACTIVATION_BITS(ACTIVATION_BITS)) u_engine (
                .i_clk(i_clk), .i_rst(i_rst), .i_valid(valid), .i_credit(credit), .i_index(index), .i_negative(negative),
                .i_zero(zero), .i_codebook(codebook), .i_signed(is_signed), .i_clear(clear), .i_x(x), .i_entries(i_entries),
                .o_first(first), .o_more(more), .o_leave(leave), .o_products(products), .o_push(push), .o_data(data));
        end
        if (ENGINE != `AXL_ENGINE_TABLE) begin : g_fifo
            product_fifo #(.WIDTH(PORTS*TOKENS*PBITS), .DEPTH(FIFO_DEPTH)) u_fifo (
                .i_clk(i_clk), .i_rst(i_rst), .i_reserve(first), .o_credit(credit), .i_push(push), .i_data(data),
                .o_some(o_some), .i_pop(i_pop), .o_data(o_data));
            assign o_begin = 1'b0;
            wire unused = &{1'b0, ahead_x, i_load, i_write, i_entry, i_unsigned, i_side, i_look_side, i_ready,
                            i_codebook_write, i_codebook_entry, i_codebook_data};
        end
    endgenerate

    wire [3:0]       tokens;
    wire [CBITS-1:0] zeros;
    popcount #(.WIDTH(TOKENS), .OUT(4)) u_tokens (.i_bits(mask), .o_count(tokens));
    popcount #(.WIDTH(PORTS)) u_zeros (.i_bits(zero), .o_count(zeros));
    always @(posedge i_clk) begin
        o_group           <= first && !i_rst;
        o_miss            <= more && !i_rst;
        o_full            <= valid && !first && !more && !i_rst;
        o_multiplications <= i_rst ? 8'd0 : {3'd0, products} * {4'd0, tokens};
        o_zeros           <= i_rst || !first || ENGINE != `AXL_ENGINE_REUSE ? 8'd0 : {{(8-CBITS){1'b0}}, zeros} * {4'd0, tokens};
    end
endmodule
`default_nettype wire
