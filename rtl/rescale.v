// Group rescale, from the cycle S in which a group's sums are there (i_*) to S + 4, when what goes to ACC is there (o_*):
//   S      G[c] (=, if it opens a group, else +=) sums
//   S + 1  written; a closing sum segment latches sumx[t]; zero[p]*sumx[t]
//   S + 2  G - zero*sumx          S + 3  times scale
// Unscaled sums pass beside. i_column_early is column one cycle before its sums; SBUF answers i at S + 1 (read at S).
`default_nettype none
module rescale #(
    parameter TOKENS      = 2,
    parameter PORTS       = 4,
    parameter BITS        = 32,
    parameter GROUP_WORDS = 128,
    parameter ADDR        = $clog2(GROUP_WORDS),
    parameter WORD        = TOKENS * PORTS * BITS
) (
    input  wire               i_clk,
    input  wire               i_start,
    input  wire [ADDR-1:0]    i_column_early,
    input  wire               i_valid,
    input  wire [ADDR-1:0]    i_column,
    input  wire [TOKENS-1:0]  i_mask,
    input  wire               i_scaled,
    input  wire               i_opens,
    input  wire               i_closes,
    input  wire               i_sum,
    input  wire [WORD-1:0]    i_sums,
    input  wire [8*PORTS-1:0] i_scale,
    input  wire [8*PORTS-1:0] i_zero,
    output wire               o_valid,
    output wire [WORD-1:0]    o_value
);
    wire [WORD-1:0]   kept, group;
    reg  [WORD-1:0]   group1, plain1;
    reg  [TOKENS-1:0] write1, latch1;
    reg  [ADDR-1:0]   column1;
    reg               scaled1, scaled2, scaled3, go1, go2, go3, go4;
    reg  [8*PORTS-1:0] scale2, scale3;
    reg  [TOKENS*BITS-1:0] sumx;
    acc_memory #(.TOKENS(TOKENS), .WIDTH(PORTS*BITS), .WORDS(GROUP_WORDS), .COPIES(1)) u_groups (
        .i_clk(i_clk), .i_write(write1), .i_write_word(column1), .i_write_data(group1),
        .i_read_word(i_column_early), .o_read_data(kept));
    add_words #(.FIELDS(TOKENS*PORTS), .BITS(BITS)) u_add (
        .i_replace(i_opens), .i_old(kept), .i_value(i_sums), .o_sum(group));
    initial begin
        write1 = {TOKENS{1'b0}};
        latch1 = {TOKENS{1'b0}};
    end
    integer k;
    always @(posedge i_clk) begin
        group1  <= group;
        plain1  <= i_sums;
        column1 <= i_column;
        write1  <= i_valid && i_scaled ? i_mask : {TOKENS{1'b0}};
        latch1  <= i_valid && i_scaled && i_closes && i_sum ? i_mask : {TOKENS{1'b0}};
        go1     <= i_valid && (!i_scaled || (i_closes && !i_sum));
        {go4, go3, go2} <= {go3, go2, go1};
        scaled1 <= i_scaled;
        {scaled3, scaled2} <= {scaled2, scaled1};
        scale2  <= i_scale;
        scale3  <= scale2;
        for (k = 0; k < TOKENS; k = k + 1)
            if (i_start) sumx[BITS*k +: BITS] <= {BITS{1'b0}};
            else if (latch1[k]) sumx[BITS*k +: BITS] <= group1[BITS*PORTS*k +: BITS];
    end
    assign o_valid = go4;
    genvar t, p;
    generate
        for (t = 0; t < TOKENS; t = t + 1) begin : g_token
            for (p = 0; p < PORTS; p = p + 1) begin : g_port
                localparam AT = BITS * (t * PORTS + p);
                reg  signed [BITS-1:0] group2, shift2, difference3, value4;
                reg  [BITS-1:0] plain2, plain3;
                wire signed [BITS-1:0] zero  = {{(BITS-8){i_zero[8*p+7]}}, i_zero[8*p +: 8]};
                wire signed [BITS-1:0] sum   = sumx[BITS*t +: BITS];
                wire signed [BITS-1:0] scale = {{(BITS-8){1'b0}}, scale3[8*p +: 8]};
                always @(posedge i_clk) begin
                    group2      <= group1[AT +: BITS];
                    shift2      <= zero * sum;
                    plain2      <= plain1[AT +: BITS];
                    difference3 <= group2 - shift2;
                    plain3      <= plain2;
                    value4      <= scaled3 ? difference3 * scale : plain3;
                end
                assign o_value[AT +: BITS] = value4;
            end
        end
    endgenerate
endmodule
`default_nettype wire
