// From a pop to ACC. Pop in cycle t: products registered t + 1, sums at S = t + 1 + log2(LANES); with group scales, what is to be
// added comes at S + 4. ACC is read one cycle before, added to, registered, written: 3 cycles from one pop of a word to the next.
`default_nettype none
module accumulator #(
    parameter LANES        = 8,
    parameter PORTS        = 4,
    parameter TOKENS       = 2,
    parameter PBITS        = 16,
    parameter BITS         = 32,
    parameter GROUP_SCALES = 1,
    parameter ACC_WORDS    = 1024,
    parameter GROUP_WORDS  = 128,
    parameter SBUF_LINES   = 512,
    parameter ADDR         = $clog2(ACC_WORDS),
    parameter SADDR        = $clog2(SBUF_LINES),
    parameter FIELDS       = TOKENS * PORTS,
    parameter WORD         = FIELDS * BITS
) (
    input  wire                          i_clk,
    input  wire                          i_rst,
    input  wire                          i_start,
    input  wire                          i_pop,
    input  wire [LANES*FIELDS*PBITS-1:0] i_products,
    input  wire [15:0]                   i_acc,
    input  wire [15:0]                   i_column,
    input  wire [15:0]                   i_scale_line,
    input  wire [TOKENS-1:0]             i_mask,
    input  wire                          i_scaled,
    input  wire                          i_opens,
    input  wire                          i_closes,
    input  wire                          i_sum,
    input  wire                          i_overwrite,
    output wire [SADDR-1:0]              o_sbuf_line,
    input  wire [16*PORTS-1:0]           i_sbuf,
    input  wire [ADDR-1:0]               i_read_word,
    output wire [WORD-1:0]               o_read_data
);
    localparam LOGL = $clog2(LANES);
    localparam SUM  = PBITS + LOGL;
    localparam GADDR = $clog2(GROUP_WORDS);
    reg  [LANES*FIELDS*PBITS-1:0] products;
    wire [FIELDS*SUM-1:0]         sums;
    wire [WORD-1:0]               wide, value, old, sum;
    always @(posedge i_clk) products <= i_products;
    adder_tree #(.LANES(LANES), .FIELDS(FIELDS), .IN(PBITS)) u_tree (.i_clk(i_clk), .i_values(products), .o_sums(sums));
    genvar f;
    generate
        for (f = 0; f < FIELDS; f = f + 1) begin : g_extend
            assign wide[BITS*f +: BITS] = {{(BITS-SUM){sums[SUM*f+SUM-1]}}, sums[SUM*f +: SUM]};
        end
    endgenerate

    // early: one cycle before the sums
    wire              e_valid, e_scaled, e_opens, e_closes, e_sum, e_overwrite;
    wire [ADDR-1:0]   e_acc;
    wire [GADDR-1:0]  e_column;
    wire [SADDR-1:0]  e_line;
    wire [TOKENS-1:0] e_mask;
    wire              pop = i_pop && !i_rst;
    delay #(.WIDTH(6 + ADDR + GADDR + SADDR + TOKENS), .STAGES(LOGL)) u_early (
        .i_clk(i_clk),
        .i_data({pop, i_scaled, i_opens, i_closes, i_sum, i_overwrite, i_acc[ADDR-1:0], i_column[GADDR-1:0],
                 i_scale_line[SADDR-1:0], i_mask}),
        .o_data({e_valid, e_scaled, e_opens, e_closes, e_sum, e_overwrite, e_acc, e_column, e_line, e_mask}));
    wire unused_bits = &{1'b0, i_acc, i_column, i_scale_line};

    wire              v_now, v_overwrite;
    wire [ADDR-1:0]   v_early_acc, v_acc;
    wire [TOKENS-1:0] v_mask;
    generate
        if (GROUP_SCALES != 0) begin : g_scales
            wire              s_valid, s_scaled, s_opens, s_closes, s_sum;
            wire [GADDR-1:0]  s_column;
            wire [TOKENS-1:0] s_mask;
            delay #(.WIDTH(5 + GADDR + SADDR + TOKENS), .STAGES(1)) u_sums (
                .i_clk(i_clk), .i_data({e_valid, e_scaled, e_opens, e_closes, e_sum, e_column, e_line, e_mask}),
                .o_data({s_valid, s_scaled, s_opens, s_closes, s_sum, s_column, o_sbuf_line, s_mask}));
            rescale #(.TOKENS(TOKENS), .PORTS(PORTS), .BITS(BITS), .GROUP_WORDS(GROUP_WORDS)) u_rescale (
                .i_clk(i_clk), .i_start(i_start), .i_column_early(e_column), .i_valid(s_valid), .i_column(s_column),
                .i_mask(s_mask), .i_scaled(s_scaled), .i_opens(s_opens), .i_closes(s_closes), .i_sum(s_sum), .i_sums(wide),
                .i_scale(i_sbuf[8*PORTS-1:0]), .i_zero(i_sbuf[16*PORTS-1:8*PORTS]), .o_valid(v_now), .o_value(value));
            delay #(.WIDTH(ADDR), .STAGES(4)) u_address (.i_clk(i_clk), .i_data(e_acc), .o_data(v_early_acc));
            delay #(.WIDTH(1 + TOKENS), .STAGES(5)) u_flags (
                .i_clk(i_clk), .i_data({e_overwrite, e_mask}), .o_data({v_overwrite, v_mask}));
        end else begin : g_plain
            assign value       = wide;
            assign v_early_acc = e_acc;
            assign o_sbuf_line = {SADDR{1'b0}};
            delay #(.WIDTH(2 + TOKENS), .STAGES(1)) u_flags (
                .i_clk(i_clk), .i_data({e_valid, e_overwrite, e_mask}), .o_data({v_now, v_overwrite, v_mask}));
            wire unused_scales = &{1'b0, i_sbuf, i_start, e_line, e_column, e_scaled, e_opens, e_closes, e_sum};
        end
    endgenerate
    delay #(.WIDTH(ADDR), .STAGES(1)) u_acc (.i_clk(i_clk), .i_data(v_early_acc), .o_data(v_acc));

    reg  [TOKENS-1:0] write;
    reg  [ADDR-1:0]   write_word;
    reg  [WORD-1:0]   write_data;
    initial write = {TOKENS{1'b0}};
    add_words #(.FIELDS(FIELDS), .BITS(BITS)) u_add (.i_replace(v_overwrite), .i_old(old), .i_value(value), .o_sum(sum));
    acc_memory #(.TOKENS(TOKENS), .WIDTH(PORTS*BITS), .WORDS(ACC_WORDS), .COPIES(2)) u_acc_memory (
        .i_clk(i_clk), .i_write(write), .i_write_word(write_word), .i_write_data(write_data),
        .i_read_word({i_read_word, v_early_acc}), .o_read_data({o_read_data, old}));
    always @(posedge i_clk) begin
        write      <= v_now ? v_mask : {TOKENS{1'b0}};
        write_word <= v_acc;
        write_data <= sum;
    end
endmodule
`default_nettype wire
