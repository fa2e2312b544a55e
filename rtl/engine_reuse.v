// The product-reuse engine. A group classified in cycle E travels LATENCY cycles beside its last products, then reads all its
// codes from the result cache; the product retiring in that cycle is bypassed. Cache: one bank a multiplier, one copy a port.
`default_nettype none
module engine_reuse #(
    parameter PORTS           = 4,
    parameter MULTIPLIERS     = 1,
    parameter LATENCY         = 3,
    parameter TOKENS          = 2,
    parameter ACTIVATION_BITS = 8,
    parameter INDEX_ENTRIES   = 256,
    parameter XBITS           = TOKENS * ACTIVATION_BITS,
    parameter PBITS           = ACTIVATION_BITS + 8
) (
    input  wire                          i_clk,
    input  wire                          i_rst,
    input  wire                          i_load,
    input  wire [8*PORTS-1:0]            i_next_index,
    input  wire [PORTS-1:0]              i_next_zero,
    input  wire                          i_next_clear,
    input  wire                          i_valid,
    input  wire                          i_credit,
    input  wire [8*PORTS-1:0]            i_index,
    input  wire [PORTS-1:0]              i_negative,
    input  wire [PORTS-1:0]              i_zero,
    input  wire                          i_codebook,
    input  wire                          i_signed,
    input  wire                          i_clear,
    input  wire [XBITS-1:0]              i_x,
    input  wire [127:0]                  i_entries,
    output wire                          o_first,
    output wire                          o_more,
    output wire                          o_leave,
    output wire [4:0]                    o_products,
    output wire                          o_push,
    output wire [PORTS*TOKENS*PBITS-1:0] o_data
);
    localparam WIDTH = TOKENS * PBITS;
    localparam LOGM  = $clog2(MULTIPLIERS);
    localparam DEPTH = INDEX_ENTRIES / MULTIPLIERS;
    localparam ADDR  = $clog2(DEPTH);
    localparam integer BANKS_VALUE = MULTIPLIERS - 1;
    localparam [7:0] BANKS = BANKS_VALUE[7:0];

    wire [MULTIPLIERS-1:0]   pick, r_pick;
    wire [8*MULTIPLIERS-1:0] pick_index, r_pick_index;
    reuse_issue #(.PORTS(PORTS), .MULTIPLIERS(MULTIPLIERS), .INDEX_ENTRIES(INDEX_ENTRIES)) u_issue (
        .i_clk(i_clk), .i_rst(i_rst), .i_load(i_load), .i_next_index(i_next_index), .i_next_zero(i_next_zero),
        .i_next_clear(i_next_clear), .i_valid(i_valid), .i_credit(i_credit), .i_index(i_index), .i_clear(i_clear),
        .o_first(o_first), .o_more(o_more), .o_leave(o_leave), .o_pick(pick), .o_pick_index(pick_index));
    wire [2:0] picks;
    popcount #(.WIDTH(MULTIPLIERS), .OUT(3)) u_picks (.i_bits(pick), .o_count(picks));
    assign o_products = {2'd0, picks};

    wire [8*PORTS-1:0] r_index;
    wire [PORTS-1:0]   r_negative, r_zero;
    delay #(.WIDTH(10*PORTS + 9*MULTIPLIERS), .STAGES(LATENCY)) u_travel (
        .i_clk(i_clk), .i_data({i_index, i_negative, i_zero, pick, pick_index}),
        .o_data({r_index, r_negative, r_zero, r_pick, r_pick_index}));
    reg  [LATENCY-1:0] leaving;
    integer i;
    assign o_push = leaving[LATENCY-1];
    always @(posedge i_clk)
        if (i_rst) leaving <= {LATENCY{1'b0}};
        else begin
            leaving[0] <= o_leave;
            for (i = 1; i < LATENCY; i = i + 1) leaving[i] <= leaving[i-1];
        end

    wire [WIDTH*MULTIPLIERS-1:0] product;
    genvar m, p, t;
    generate
        for (m = 0; m < MULTIPLIERS; m = m + 1) begin : g_bank
            wire [8:0] factor;
            code_factor u_factor (.i_index(pick_index[8*m +: 8]), .i_codebook(i_codebook), .i_signed(i_signed),
                                  .i_entries(i_entries), .o_factor(factor));
            multiplier #(.TOKENS(TOKENS), .BITS(ACTIVATION_BITS), .LATENCY(LATENCY)) u_multiplier (
                .i_clk(i_clk), .i_x(i_x), .i_factor(factor), .o_product(product[WIDTH*m +: WIDTH]));
        end
        for (p = 0; p < PORTS; p = p + 1) begin : g_port
            wire [7:0] index = r_index[8*p +: 8];
            wire [7:0] bank  = index & BANKS;
            wire [7:0] entry = index >> LOGM;
            wire [WIDTH*MULTIPLIERS-1:0] read;
            for (m = 0; m < MULTIPLIERS; m = m + 1) begin : g_copy
                wire [7:0] written = r_pick_index[8*m +: 8] >> LOGM;
                wire       hit     = r_pick[m] && r_pick_index[8*m +: 8] == index;
                wire [WIDTH-1:0] kept;
                wire       unused_written = &{1'b0, written, entry};
                ram_lut #(.WIDTH(WIDTH), .DEPTH(DEPTH)) u_cache (
                    .i_clk(i_clk), .i_write(r_pick[m]), .i_write_address(written[ADDR-1:0]),
                    .i_write_data(product[WIDTH*m +: WIDTH]), .i_read_address(entry[ADDR-1:0]), .o_read_data(kept));
                assign read[WIDTH*m +: WIDTH] = hit ? product[WIDTH*m +: WIDTH] : kept;
            end
            wire [WIDTH-1:0] value = read[WIDTH*bank +: WIDTH];
            for (t = 0; t < TOKENS; t = t + 1) begin : g_sign
                wire [PBITS-1:0] one = value[PBITS*t +: PBITS];
                assign o_data[PBITS*(t*PORTS+p) +: PBITS] = r_zero[p] ? {PBITS{1'b0}}
                                                          : r_negative[p] ? {PBITS{1'b0}} - one : one;
            end
        end
    endgenerate
endmodule
`default_nettype wire
