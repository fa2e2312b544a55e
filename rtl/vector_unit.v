// The vector unit: what comes from accumulators (vector: VCFG, VOUT, VREQ, VQT) and what goes on in rows (vector_rows: VMAP,
// VROW and their settings). One instruction at a time, so they share the ways out.
`default_nettype none
`include "axlora_isa.vh"
module vector_unit #(
    parameter LANES = 8, parameter PORTS = 4, parameter TOKENS = 2, parameter VECTOR_LANES = 2, parameter BEAT_BYTES = 8,
    parameter ACTIVATION_BITS = 8, parameter ACCUMULATOR_BITS = 32, parameter ACC_WORDS = 1024, parameter PBUF_GROUPS = 512,
    parameter TBUF_TOKENS = 64, parameter OBUF_BEATS = 512, parameter UBUF_LINES = 64, parameter CBUF_WORDS = 512,
    parameter VBUF_WORDS = 512, parameter TABLE_ENTRIES = 512,
    parameter AADDR = $clog2(ACC_WORDS), parameter PADDR = $clog2(PBUF_GROUPS), parameter OADDR = $clog2(OBUF_BEATS),
    parameter UADDR = $clog2(UBUF_LINES), parameter VADDR = $clog2(VBUF_WORDS), parameter TADDR = $clog2(TBUF_TOKENS),
    parameter LLANE = $clog2(LANES),
    parameter OUT_BYTES = 4 * VECTOR_LANES > BEAT_BYTES ? 4 * VECTOR_LANES : BEAT_BYTES
) (
    input  wire                       i_clk,
    input  wire                       i_rst,
    input  wire                       i_run,
    input  wire                       i_accept,
    input  wire [`AXL_ENTRY_BITS-1:0] i_entry,
    output wire                       o_single,
    output wire                       o_done,
    output wire [15:0]                o_tbuf_token,
    input  wire [31:0]                i_tbuf,
    output wire [AADDR-1:0]           o_acc_word,
    input  wire [TOKENS*PORTS*ACCUMULATOR_BITS-1:0] i_acc,
    output wire [PADDR-1:0]           o_pbuf_group,
    input  wire [64*PORTS-1:0]        i_pbuf,
    input  wire                       i_cbuf_write,
    input  wire                       i_table_write,
    input  wire [20:0]                i_write_beat,
    input  wire [8*BEAT_BYTES-1:0]    i_write_data,
    output wire [OUT_BYTES-1:0]       o_obuf_write,
    output wire [OADDR-1:0]           o_obuf_beat,
    output wire [8*OUT_BYTES-1:0]     o_obuf_data,
    output wire [TOKENS-1:0]          o_ubuf_write,
    output wire [UADDR-1:0]           o_ubuf_line,
    output wire [LLANE-1:0]           o_ubuf_lane,
    output wire [VECTOR_LANES*ACTIVATION_BITS-1:0] o_ubuf_data,
    output wire [3:0]                 o_error,
    output wire [4:0]                 o_elements,
    output wire [4:0]                 o_saturations
);
    wire [5:0]  op   = i_entry[`AXL_ENTRY_OP];
    wire        sums = op == `AXL_OP_VCFG || op == `AXL_OP_VOUT || op == `AXL_OP_VREQ || op == `AXL_OP_VQT;
    wire        sums_single, rows_single, sums_done, rows_done, vbuf_write;
    wire [15:0] pitch, bank_acc, bank;
    wire [21:0] row_token;
    wire [VADDR-1:0]           vbuf_word;
    wire [32*VECTOR_LANES-1:0] vbuf_data;
    wire [OUT_BYTES-1:0]       sums_write, rows_write;
    wire [OADDR-1:0]           sums_beat, rows_beat;
    wire [8*OUT_BYTES-1:0]     sums_data, rows_data;
    wire [TOKENS-1:0]          sums_ubuf, rows_ubuf;
    wire [UADDR-1:0]           sums_line, rows_line;
    wire [LLANE-1:0]           sums_lane, rows_lane;
    wire [VECTOR_LANES*ACTIVATION_BITS-1:0] sums_codes, rows_codes;
    wire [3:0]                 sums_error, rows_error;
    wire [4:0]                 sums_elements, rows_elements, sums_saturations, rows_saturations;
    // VMAP writes for two cycles after the next instruction may be accepted (AXL_MAP_PIPE); VREQ and VQT do not.
    reg                        rows_now;
    reg  [1:0]                 rows_before;
    always @(posedge i_clk) begin
        if (i_accept) rows_now <= !sums;
        rows_before <= {rows_before[0], rows_now};
    end
    wire                       rows_write_now = rows_now || rows_before != 2'd0;
    vector #(.LANES(LANES), .PORTS(PORTS), .TOKENS(TOKENS), .VECTOR_LANES(VECTOR_LANES), .BEAT_BYTES(BEAT_BYTES),
             .ACTIVATION_BITS(ACTIVATION_BITS), .ACCUMULATOR_BITS(ACCUMULATOR_BITS), .ACC_WORDS(ACC_WORDS),
             .PBUF_GROUPS(PBUF_GROUPS), .TBUF_TOKENS(TBUF_TOKENS), .OBUF_BEATS(OBUF_BEATS), .UBUF_LINES(UBUF_LINES),
             .VBUF_WORDS(VBUF_WORDS)) u_sums (
        .i_clk(i_clk), .i_rst(i_rst), .i_run(i_run), .i_accept(i_accept && sums), .i_entry(i_entry), .o_single(sums_single),
        .o_done(sums_done), .o_tbuf_token(o_tbuf_token), .i_tbuf(i_tbuf), .i_row_token(row_token), .i_pitch(pitch), .i_bank_acc(bank_acc), .i_bank(bank),
        .o_acc_word(o_acc_word), .i_acc(i_acc), .o_pbuf_group(o_pbuf_group), .i_pbuf(i_pbuf), .o_obuf_write(sums_write),
        .o_obuf_beat(sums_beat), .o_obuf_data(sums_data), .o_ubuf_write(sums_ubuf), .o_ubuf_line(sums_line),
        .o_ubuf_lane(sums_lane), .o_ubuf_data(sums_codes), .o_vbuf_write(vbuf_write), .o_vbuf_word(vbuf_word),
        .o_vbuf_data(vbuf_data), .o_error(sums_error), .o_elements(sums_elements), .o_saturations(sums_saturations));
    vector_rows #(.LANES(LANES), .PORTS(PORTS), .TOKENS(TOKENS), .VECTOR_LANES(VECTOR_LANES), .BEAT_BYTES(BEAT_BYTES),
                  .ACTIVATION_BITS(ACTIVATION_BITS), .TBUF_TOKENS(TBUF_TOKENS), .OBUF_BEATS(OBUF_BEATS),
                  .UBUF_LINES(UBUF_LINES), .CBUF_WORDS(CBUF_WORDS), .VBUF_WORDS(VBUF_WORDS),
                  .TABLE_ENTRIES(TABLE_ENTRIES)) u_rows (
        .i_clk(i_clk), .i_rst(i_rst), .i_run(i_run), .i_accept(i_accept && !sums), .i_entry(i_entry), .o_single(rows_single),
        .o_done(rows_done), .o_pitch(pitch), .o_bank_acc(bank_acc), .o_bank(bank), .i_cbuf_write(i_cbuf_write), .i_table_write(i_table_write),
        .i_write_beat(i_write_beat), .i_write_data(i_write_data), .i_vbuf_write(vbuf_write), .i_vbuf_word(vbuf_word),
        .i_vbuf_data(vbuf_data), .i_token(o_tbuf_token[TADDR-1:0]), .o_row_token(row_token), .o_obuf_write(rows_write),
        .o_obuf_beat(rows_beat), .o_obuf_data(rows_data), .o_ubuf_write(rows_ubuf), .o_ubuf_line(rows_line),
        .o_ubuf_lane(rows_lane), .o_ubuf_data(rows_codes), .o_error(rows_error), .o_elements(rows_elements),
        .o_saturations(rows_saturations));
    assign o_single      = sums ? sums_single : rows_single;
    assign o_done        = rows_now ? rows_done : sums_done;
    assign o_error       = rows_now ? rows_error : sums_error;
    assign o_obuf_write  = rows_write_now ? rows_write : sums_write;
    assign o_obuf_beat   = rows_write_now ? rows_beat : sums_beat;
    assign o_obuf_data   = rows_write_now ? rows_data : sums_data;
    assign o_ubuf_write  = rows_write_now ? rows_ubuf : sums_ubuf;
    assign o_ubuf_line   = rows_write_now ? rows_line : sums_line;
    assign o_ubuf_lane   = rows_write_now ? rows_lane : sums_lane;
    assign o_ubuf_data   = rows_write_now ? rows_codes : sums_codes;
    assign o_elements    = rows_write_now ? rows_elements : sums_elements;
    assign o_saturations = rows_write_now ? rows_saturations : sums_saturations;
endmodule
`default_nettype wire
