// Events to counters, in the order of isa/opcodes.py: one-bit events in i_flags (cycles first, then the three beat counters).
`default_nettype none
`include "axlora_isa.vh"
module counter_events (
    input  wire        i_clk,
    input  wire        i_clear,
    input  wire [8:0]  i_index,
    output wire [63:0] o_value,
    input  wire [25:0] i_flags,
    input  wire [15:0] i_groups,
    input  wire [15:0] i_misses,
    input  wire [15:0] i_fulls,
    input  wire [15:0] i_macs,
    input  wire [15:0] i_multiplications,
    input  wire [15:0] i_zeros,
    input  wire [15:0] i_rescales,
    input  wire [4:0]  i_elements,
    input  wire [4:0]  i_saturations
);
    wire [16*`AXL_COUNTERS-1:0] add;
    genvar n;
    generate
        for (n = 0; n <= `AXL_COUNT_STORE_IDLE; n = n + 1) begin : g_cycles
            assign add[16*n +: 16] = {15'd0, i_flags[n]};
        end
        for (n = 0; n < 3; n = n + 1) begin : g_beats
            assign add[16*(`AXL_COUNT_FETCH_BEATS+n) +: 16] = {15'd0, i_flags[`AXL_COUNT_STORE_IDLE+1+n]};
        end
    endgenerate
    assign add[16*`AXL_COUNT_LANE_GROUPS +: 16]     = i_groups;
    assign add[16*`AXL_COUNT_LANE_MISSES +: 16]     = i_misses;
    assign add[16*`AXL_COUNT_LANE_FIFO_FULL +: 16]  = i_fulls;
    assign add[16*`AXL_COUNT_MACS +: 16]            = i_macs;
    assign add[16*`AXL_COUNT_MULTIPLICATIONS +: 16] = i_multiplications;
    assign add[16*`AXL_COUNT_ZEROS +: 16]           = i_zeros;
    assign add[16*`AXL_COUNT_RESCALES +: 16]        = i_rescales;
    assign add[16*`AXL_COUNT_VECTOR_ELEMENTS +: 16] = {11'd0, i_elements};
    assign add[16*`AXL_COUNT_SATURATIONS +: 16]     = {11'd0, i_saturations};
    counters u_counters (.i_clk(i_clk), .i_clear(i_clear), .i_add(add), .i_index(i_index), .o_value(o_value));
endmodule
`default_nettype wire
