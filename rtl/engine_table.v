// The engine of tables: for each activation x the products x*0 .. x*15 (low) and x*-8 .. x*7 (high; of unsigned codes x*0 .. x*15),
// made by additions. A code's product is high[code >> 4] * 16 + low[code mod 16]: two look-ups and an addition, one cycle a group.
// MULTIPLIERS accumulators fill as many banks (entry mod MULTIPLIERS); each port has a copy of every table.
`default_nettype none
`include "axlora_isa.vh"
module engine_table #(
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
    input  wire [8*PORTS-1:0]            i_index,
    input  wire                          i_codebook,
    input  wire                          i_clear,
    input  wire [XBITS-1:0]              i_x,
    input  wire                          i_load,
    input  wire                          i_write,
    input  wire [3:0]                    i_entry,
    input  wire                          i_unsigned,
    input  wire                          i_side,
    input  wire                          i_look_side,
    input  wire                          i_ready,
    input  wire                          i_codebook_write,
    input  wire [3:0]                    i_codebook_entry,
    input  wire [7:0]                    i_codebook_data,
    output wire                          o_first,
    output wire                          o_more,
    output wire                          o_begin,
    output wire [4:0]                    o_products,
    output wire                          o_push,
    output wire [PORTS*TOKENS*PBITS-1:0] o_data
);
    localparam BITS  = ACTIVATION_BITS;
    localparam WIDE  = BITS + 4;
    localparam WIDTH = TOKENS * WIDE;
    localparam LOGM  = $clog2(MULTIPLIERS);
    localparam DEPTH = 2 * `AXL_MULTIPLES / MULTIPLIERS;
    localparam ADDR  = $clog2(DEPTH);
    localparam integer BANKS_VALUE = MULTIPLIERS - 1;
    localparam [3:0] BANKS = BANKS_VALUE[3:0];
    assign o_first    = i_valid && (!i_clear || i_ready);
    assign o_more     = i_valid && !o_first;
    assign o_begin    = o_first && i_clear;
    assign o_products = o_begin ? `AXL_FILL_ADDS : 5'd0;
    reg  [LATENCY-1:0] leaving;
    integer i;
    assign o_push = leaving[LATENCY-1];
    always @(posedge i_clk)
        if (i_rst) leaving <= {LATENCY{1'b0}};
        else begin
            leaving[0] <= o_first;
            for (i = 1; i < LATENCY; i = i + 1) leaving[i] <= leaving[i-1];
        end

    // The fill: bank m takes x*m, x*(m + MULTIPLIERS), ..
    wire [WIDTH*MULTIPLIERS-1:0] low_data, high_data;
    wire [ADDR-1:0]              fill_address = {i_side, i_entry[ADDR-2:0]};
    wire                         upper = i_entry[ADDR-2] && !i_unsigned;  // nibbles 8 .. 15 stand for -8 .. -1
    genvar t, m, p;
    generate
        for (t = 0; t < TOKENS; t = t + 1) begin : g_token
            wire [WIDE-1:0] next = {{4{i_x[BITS*t+BITS-1]}}, i_x[BITS*t +: BITS]};
            reg  [BITS-1:0] x;
            always @(posedge i_clk) if (i_load) x <= i_x[BITS*t +: BITS];
            wire [WIDE-1:0] step = {{4{x[BITS-1]}}, x} << LOGM;
            for (m = 0; m < MULTIPLIERS; m = m + 1) begin : g_adder
                reg  [WIDE-1:0] multiple;
                always @(posedge i_clk)
                    if (i_load) multiple <= m == 0 ? {WIDE{1'b0}} : next;
                    else if (i_write) multiple <= multiple + step;
                assign low_data[WIDTH*m + WIDE*t +: WIDE]  = multiple;
                assign high_data[WIDTH*m + WIDE*t +: WIDE] = {multiple[WIDE-1:4] - (upper ? x : {BITS{1'b0}}), multiple[3:0]};
            end
        end
        for (p = 0; p < PORTS; p = p + 1) begin : g_port
            wire [7:0] entry;
            ram_lut #(.WIDTH(8), .DEPTH(16)) u_codebook (
                .i_clk(i_clk), .i_write(i_codebook_write), .i_write_address(i_codebook_entry), .i_write_data(i_codebook_data),
                .i_read_address(i_index[8*p +: 4]), .o_read_data(entry));
            wire [7:0] code = i_codebook ? entry : i_index[8*p +: 8];
            wire [3:0] low_bank = code[3:0] & BANKS, high_bank = code[7:4] & BANKS;
            wire       side = i_look_side ^ i_clear;
            wire [WIDTH*MULTIPLIERS-1:0] low_read, high_read;
            for (m = 0; m < MULTIPLIERS; m = m + 1) begin : g_bank
                ram_lut #(.WIDTH(WIDTH), .DEPTH(DEPTH)) u_low (
                    .i_clk(i_clk), .i_write(i_write), .i_write_address(fill_address), .i_write_data(low_data[WIDTH*m +: WIDTH]),
                    .i_read_address({side, code[3:LOGM]}), .o_read_data(low_read[WIDTH*m +: WIDTH]));
                ram_lut #(.WIDTH(WIDTH), .DEPTH(DEPTH)) u_high (
                    .i_clk(i_clk), .i_write(i_write), .i_write_address(fill_address), .i_write_data(high_data[WIDTH*m +: WIDTH]),
                    .i_read_address({side, code[7:4+LOGM]}), .o_read_data(high_read[WIDTH*m +: WIDTH]));
            end
            reg  [WIDTH-1:0]        low, high;
            wire [TOKENS*PBITS-1:0] sum, product;
            always @(posedge i_clk) begin
                low  <= low_read[WIDTH*low_bank +: WIDTH];
                high <= high_read[WIDTH*high_bank +: WIDTH];
            end
            if (LATENCY == 1) begin : g_direct
                assign product = sum;
            end else begin : g_delay
                delay #(.WIDTH(TOKENS*PBITS), .STAGES(LATENCY-1)) u_delay (.i_clk(i_clk), .i_data(sum), .o_data(product));
            end
            for (t = 0; t < TOKENS; t = t + 1) begin : g_sum
                wire [WIDE-1:0] one = low[WIDE*t +: WIDE];
                assign sum[PBITS*t +: PBITS] = {high[WIDE*t +: WIDE] + {{4{one[WIDE-1]}}, one[WIDE-1:4]}, one[3:0]};
                assign o_data[PBITS*(t*PORTS+p) +: PBITS] = product[PBITS*t +: PBITS];
            end
        end
    endgenerate
    wire unused_entry = &{1'b0, i_entry};
endmodule
`default_nettype wire
