// The multiplier baseline behind the same ports: MULTIPLIERS codes a cycle, PORTS/MULTIPLIERS cycles a group, zeros included.
`default_nettype none
module engine_mac #(
    parameter PORTS           = 4,
    parameter MULTIPLIERS     = 1,
    parameter LATENCY         = 3,
    parameter TOKENS          = 2,
    parameter ACTIVATION_BITS = 8,
    parameter XBITS           = TOKENS * ACTIVATION_BITS,
    parameter PBITS           = ACTIVATION_BITS + 8
) (
    input  wire                          i_clk,
    input  wire                          i_rst,
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
    localparam PHASES = PORTS / MULTIPLIERS;
    localparam WIDTH  = TOKENS * PBITS;
    localparam CODE   = $clog2(PORTS);
    localparam LOGM   = $clog2(MULTIPLIERS);
    localparam integer LAST_VALUE = PHASES - 1;
    localparam [4:0] LAST = LAST_VALUE[4:0];
    localparam [4:0] MADE = MULTIPLIERS[4:0];
    reg  [4:0] phase;
    wire       issue = i_valid && (phase != 5'd0 || i_credit);
    wire       unused_bits = &{1'b0, i_clear, r_phase};
    assign o_first    = issue && phase == 5'd0;
    assign o_more     = issue && phase != 5'd0;
    assign o_leave    = issue && phase == LAST;
    assign o_products = issue ? MADE : 5'd0;
    always @(posedge i_clk)
        if (i_rst) phase <= 5'd0;
        else if (issue) phase <= o_leave ? 5'd0 : phase + 5'd1;

    reg  [LATENCY-1:0] leaving;
    integer i;
    assign o_push = leaving[LATENCY-1];
    always @(posedge i_clk)
        if (i_rst) leaving <= {LATENCY{1'b0}};
        else begin
            leaving[0] <= o_leave;
            for (i = 1; i < LATENCY; i = i + 1) leaving[i] <= leaving[i-1];
        end

    wire [4:0] r_phase;
    delay #(.WIDTH(5), .STAGES(LATENCY)) u_phase (.i_clk(i_clk), .i_data(phase), .o_data(r_phase));
    wire [WIDTH*MULTIPLIERS-1:0] signed_product;
    genvar m, t, p;
    generate
        for (m = 0; m < MULTIPLIERS; m = m + 1) begin : g_multiplier
            localparam [7:0] FIRST = m;
            wire [7:0] at = ({3'd0, phase} << LOGM) + FIRST;
            wire       unused_at = &{1'b0, at};
            wire       zero = i_zero[at[CODE-1:0]], negative = i_negative[at[CODE-1:0]];
            wire [8:0] factor;
            wire       r_zero, r_negative;
            wire [WIDTH-1:0] product;
            code_factor u_factor (.i_index(i_index[8*at[CODE-1:0] +: 8]), .i_codebook(i_codebook), .i_signed(i_signed),
                                  .i_entries(i_entries), .o_factor(factor));
            multiplier #(.TOKENS(TOKENS), .BITS(ACTIVATION_BITS), .LATENCY(LATENCY)) u_multiplier (
                .i_clk(i_clk), .i_x(i_x), .i_factor(factor), .o_product(product));
            delay #(.WIDTH(2), .STAGES(LATENCY)) u_sign (.i_clk(i_clk), .i_data({zero, negative}), .o_data({r_zero, r_negative}));
            for (t = 0; t < TOKENS; t = t + 1) begin : g_sign
                wire [PBITS-1:0] one = product[PBITS*t +: PBITS];
                assign signed_product[PBITS*(m*TOKENS+t) +: PBITS] = r_zero ? {PBITS{1'b0}}
                                                                   : r_negative ? {PBITS{1'b0}} - one : one;
            end
        end
        for (p = 0; p < PORTS; p = p + 1) begin : g_port
            localparam integer PHASE_VALUE = p / MULTIPLIERS;
            localparam [4:0] PHASE = PHASE_VALUE[4:0];
            localparam integer SLOT = p % MULTIPLIERS;
            for (t = 0; t < TOKENS; t = t + 1) begin : g_token
                wire [PBITS-1:0] now = signed_product[PBITS*(SLOT*TOKENS+t) +: PBITS];
                if (PHASE == LAST) begin : g_last
                    assign o_data[PBITS*(t*PORTS+p) +: PBITS] = now;
                end else begin : g_held
                    reg [PBITS-1:0] held;
                    always @(posedge i_clk) if (r_phase == PHASE) held <= now;
                    assign o_data[PBITS*(t*PORTS+p) +: PBITS] = held;
                end
            end
        end
    endgenerate
endmodule
`default_nettype wire
