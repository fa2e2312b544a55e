// The matrix unit: control, lanes, pop, accumulator; and its events for the counters.
`default_nettype none
`include "axlora_isa.vh"
module matrix #(
    parameter ENGINE = `AXL_ENGINE_REUSE, parameter LANES = 8, parameter PORTS = 4, parameter MULTIPLIERS = 1,
    parameter LATENCY = 3, parameter TOKENS = 2, parameter FIFO_DEPTH = 8, parameter ACTIVATION_BITS = 8,
    parameter ACCUMULATOR_BITS = 32, parameter INDEX_ENTRIES = 256, parameter GROUP_SCALES = 1, parameter VECTOR_LANES = 2,
    parameter BEAT_BYTES = 8, parameter WBUF_LINES = 4096, parameter ABUF_LINES = 512, parameter UBUF_LINES = 64,
    parameter ACC_WORDS = 1024,
    parameter GROUP_WORDS = 128, parameter TBUF_TOKENS = 64, parameter SBUF_LINES = 512,
    parameter PIPE  = $clog2(LANES) + 5 + (GROUP_SCALES != 0 ? 3 : 0),
    parameter ADDR  = $clog2(ACC_WORDS),
    parameter SADDR = $clog2(SBUF_LINES),
    parameter UADDR = $clog2(UBUF_LINES),
    parameter LLANE = $clog2(LANES)
) (
    input  wire                       i_clk,
    input  wire                       i_rst,
    input  wire                       i_run,
    input  wire                       i_accept,
    input  wire [`AXL_ENTRY_BITS-1:0] i_entry,
    output wire                       o_single,
    output wire                       o_done,
    output wire [15:0]                o_tbuf_token,
    input  wire [3:0]                 i_slot,
    input  wire                       i_wbuf_write,
    input  wire [23:0]                i_key,
    input  wire                       i_abuf_write,
    input  wire [16:0]                i_write_beat,
    input  wire [8*BEAT_BYTES-1:0]    i_write_data,
    input  wire [TOKENS-1:0]          i_ubuf_write,
    input  wire [UADDR-1:0]           i_ubuf_line,
    input  wire [LLANE-1:0]           i_ubuf_lane,
    input  wire [VECTOR_LANES*ACTIVATION_BITS-1:0] i_ubuf_data,
    output wire [SADDR-1:0]           o_sbuf_line,
    input  wire [16*PORTS-1:0]        i_sbuf,
    input  wire [ADDR-1:0]            i_acc_word,
    output wire [TOKENS*PORTS*ACCUMULATOR_BITS-1:0] o_acc,
    output wire [3:0]                 o_error,
    output wire                       o_pop,
    output wire                       o_wait_product,
    output wire                       o_wait_written,
    output reg  [15:0]                o_groups,
    output reg  [15:0]                o_misses,
    output reg  [15:0]                o_fulls,
    output reg  [15:0]                o_macs,
    output reg  [15:0]                o_multiplications,
    output reg  [15:0]                o_zeros,
    output reg  [15:0]                o_rescales
);
    localparam PBITS  = ACTIVATION_BITS + 8;
    localparam FIELDS = TOKENS * PORTS;
    localparam LOGV   = $clog2(VECTOR_LANES);
    localparam LOGP   = $clog2(PORTS);
    localparam LOGC   = LOGP + LLANE;
    wire [127:0]         codebook;
    wire                 table_write, start, first, last_pop, pop;
    wire [3:0]           table_index, last_segment, control_error;
    wire [68+TOKENS:0]   table_lane;
    wire [65+TOKENS:0]   table_tree;
    wire [15:0]          last_block, line, acc_offset;
    wire [11:0]          last_scale;
    wire [1:0]           short_row;
    matrix_control #(.TOKENS(TOKENS), .TBUF_TOKENS(TBUF_TOKENS), .PIPE(PIPE)) u_control (
        .i_clk(i_clk), .i_rst(i_rst), .i_run(i_run), .i_accept(i_accept), .i_entry(i_entry), .o_single(o_single),
        .o_done(o_done), .o_codebook(codebook), .o_tbuf_token(o_tbuf_token), .i_slot(i_slot), .o_table_write(table_write),
        .o_table_index(table_index), .o_table_lane(table_lane), .o_table_tree(table_tree), .o_start(start),
        .o_last_segment(last_segment), .o_last_block(last_block), .o_line(line), .o_acc_offset(acc_offset),
        .o_last_scale(last_scale), .o_first(first), .o_short(short_row), .i_last_pop(last_pop), .o_error(control_error));

    wire [LANES-1:0]               some, outside, group, miss, full;
    wire [8*LANES-1:0]             made, zeros;
    wire [LANES*FIELDS*PBITS-1:0]  products;
    wire [15:0]                    ubuf_group = {{(16-LLANE){1'b0}}, i_ubuf_lane} >> LOGV;
    wire                           read, fill_load, fill_write, fill_unsigned, fill_side, look_side, ready, codebook_write;
    wire [15:0]                    read_line;
    wire [3:0]                     fill_entry, codebook_entry;
    wire [7:0]                     codebook_data;
    wire [LANES-1:0]               begins;
    wire                           unused_begins = &{1'b0, begins};
    generate
        if (ENGINE == `AXL_ENGINE_TABLE) begin : g_tables
            wire [3:0] format = table_lane[67:64];
            table_fill #(.MULTIPLIERS(MULTIPLIERS)) u_fill (
                .i_clk(i_clk), .i_rst(i_rst), .i_table_write(table_write), .i_table_index(table_index),
                .i_clear(table_lane[68]), .i_unsigned(format >= `AXL_FORMAT_U2 && format < `AXL_FORMAT_CB4), .i_start(start),
                .i_last_block(last_block), .i_line(line), .i_begin(begins[0]),
                .i_codebook_set(i_accept && i_entry[`AXL_ENTRY_OP] == `AXL_OP_CODEBOOK), .i_codebook(codebook), .o_read(read),
                .o_read_line(read_line), .o_load(fill_load), .o_write(fill_write), .o_entry(fill_entry),
                .o_unsigned(fill_unsigned), .o_side(fill_side), .o_look_side(look_side), .o_ready(ready),
                .o_codebook_write(codebook_write), .o_codebook_entry(codebook_entry), .o_codebook_data(codebook_data));
        end else begin : g_none
            assign {read, fill_load, fill_write, fill_unsigned, fill_side, look_side, ready, codebook_write} = 8'd0;
            assign {read_line, fill_entry, codebook_entry, codebook_data} = 32'd0;
        end
    endgenerate
    genvar l;
    generate
        for (l = 0; l < LANES; l = l + 1) begin : g_lane
            localparam integer OWN_VALUE = l / VECTOR_LANES;
            localparam [15:0] OWN = OWN_VALUE[15:0];
            lane #(.ENGINE(ENGINE), .LANE(l), .LANES(LANES), .PORTS(PORTS), .MULTIPLIERS(MULTIPLIERS),
                   .LATENCY(LATENCY), .TOKENS(TOKENS), .FIFO_DEPTH(FIFO_DEPTH), .ACTIVATION_BITS(ACTIVATION_BITS),
                   .INDEX_ENTRIES(INDEX_ENTRIES), .BEAT_BYTES(BEAT_BYTES), .WBUF_LINES(WBUF_LINES), .ABUF_LINES(ABUF_LINES),
                   .UBUF_LINES(UBUF_LINES)) u_lane (
                .i_clk(i_clk), .i_rst(i_rst), .i_table_write(table_write), .i_table_index(table_index), .i_table(table_lane),
                .i_start(start), .i_last_segment(last_segment), .i_last_block(last_block), .i_line(line), .i_entries(codebook),
                .i_wbuf_write(i_wbuf_write), .i_key(i_key), .i_abuf_write(i_abuf_write), .i_write_beat(i_write_beat),
                .i_write_data(i_write_data), .i_ubuf_write(ubuf_group == OWN ? i_ubuf_write : {TOKENS{1'b0}}),
                .i_ubuf_line(i_ubuf_line), .i_ubuf_data(i_ubuf_data[ACTIVATION_BITS*(l % VECTOR_LANES) +: ACTIVATION_BITS]),
                .i_read(read), .i_read_line(read_line), .i_load(fill_load), .i_write(fill_write), .i_entry(fill_entry),
                .i_unsigned(fill_unsigned), .i_side(fill_side), .i_look_side(look_side), .i_ready(ready),
                .i_codebook_write(codebook_write), .i_codebook_entry(codebook_entry), .i_codebook_data(codebook_data),
                .o_begin(begins[l]), .o_some(some[l]), .i_pop(pop), .o_data(products[FIELDS*PBITS*l +: FIELDS*PBITS]),
                .o_outside(outside[l]),
                .o_group(group[l]), .o_miss(miss[l]), .o_full(full[l]), .o_multiplications(made[8*l +: 8]),
                .o_zeros(zeros[8*l +: 8]));
        end
    endgenerate

    wire [15:0]       acc, column, scale_line;
    wire [TOKENS-1:0] mask;
    wire              scaled, opens, closes, sum, overwrite, tree_outside;
    tree_sequence #(.TOKENS(TOKENS), .GROUP_SCALES(GROUP_SCALES), .ACC_WORDS(ACC_WORDS), .GROUP_WORDS(GROUP_WORDS),
                    .SBUF_LINES(SBUF_LINES)) u_tree (
        .i_clk(i_clk), .i_rst(i_rst), .i_run(i_run), .i_table_write(table_write), .i_table_index(table_index),
        .i_table(table_tree), .i_start(start), .i_last_segment(last_segment), .i_last_block(last_block), .i_acc_offset(acc_offset),
        .i_last_scale(last_scale), .i_first(first), .i_short(short_row), .i_all_some(&some), .o_pop(pop),
        .o_last_pop(last_pop), .o_acc(acc), .o_column(column), .o_scale_line(scale_line), .o_mask(mask), .o_scaled(scaled),
        .o_opens(opens), .o_closes(closes), .o_sum(sum), .o_overwrite(overwrite), .o_outside(tree_outside),
        .o_wait_product(o_wait_product), .o_wait_written(o_wait_written));
    accumulator #(.LANES(LANES), .PORTS(PORTS), .TOKENS(TOKENS), .PBITS(PBITS), .BITS(ACCUMULATOR_BITS),
                  .GROUP_SCALES(GROUP_SCALES), .ACC_WORDS(ACC_WORDS), .GROUP_WORDS(GROUP_WORDS), .SBUF_LINES(SBUF_LINES)) u_acc (
        .i_clk(i_clk), .i_rst(i_rst), .i_start(start), .i_pop(pop), .i_products(products), .i_acc(acc), .i_column(column),
        .i_scale_line(scale_line), .i_mask(mask), .i_scaled(scaled), .i_opens(opens), .i_closes(closes), .i_sum(sum),
        .i_overwrite(overwrite), .o_sbuf_line(o_sbuf_line), .i_sbuf(i_sbuf), .i_read_word(i_acc_word), .o_read_data(o_acc));
    assign o_pop   = pop;
    assign o_error = control_error != 4'd0 ? control_error
                   : i_run && (outside[0] || tree_outside) ? `AXL_ERROR_LOCAL_ADDRESS : `AXL_ERROR_NONE;

    wire [3:0]  tokens;
    popcount #(.WIDTH(TOKENS), .OUT(4)) u_tokens (.i_bits(mask), .o_count(tokens));
    wire [15:0] wide_tokens = {12'd0, tokens};
    integer n;
    reg  [15:0] sum_made, sum_zeros, sum_groups, sum_misses, sum_fulls;
    always @* begin
        {sum_made, sum_zeros, sum_groups, sum_misses, sum_fulls} = 80'd0;
        for (n = 0; n < LANES; n = n + 1) begin
            sum_made   = sum_made + {8'd0, made[8*n +: 8]};
            sum_zeros  = sum_zeros + {8'd0, zeros[8*n +: 8]};
            sum_groups = sum_groups + {15'd0, group[n]};
            sum_misses = sum_misses + {15'd0, miss[n]};
            sum_fulls  = sum_fulls + {15'd0, full[n]};
        end
    end
    always @(posedge i_clk) begin
        o_groups          <= i_rst ? 16'd0 : sum_groups;
        o_misses          <= i_rst ? 16'd0 : sum_misses;
        o_fulls           <= i_rst ? 16'd0 : sum_fulls;
        o_multiplications <= i_rst ? 16'd0 : sum_made;
        o_zeros           <= i_rst ? 16'd0 : sum_zeros;
        o_macs            <= pop && !i_rst ? wide_tokens << LOGC : 16'd0;
        o_rescales        <= pop && !i_rst && scaled && closes && !sum ? wide_tokens << LOGP : 16'd0;
    end
    wire unused_outside = &{1'b0, outside};
endmodule
`default_nettype wire
