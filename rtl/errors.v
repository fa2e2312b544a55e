// The first error stops the machine in the cycle after it or, for an overflow, which is told a cycle late, one later (o_stop; also
// after i_drain); code, unit and instruction address are kept (o_error). The watchdog counts cycles without progress.
`default_nettype none
`include "axlora_isa.vh"
module errors (
    input  wire         i_clk,
    input  wire         i_rst,
    input  wire         i_drain,
    input  wire         i_running,
    input  wire         i_progress,
    input  wire [31:0]  i_watchdog,
    input  wire [19:0]  i_code,
    input  wire [159:0] i_pc,
    input  wire [3:0]   i_overflow,
    output reg          o_stop,
    output wire         o_overflowed,
    output reg          o_error,
    output reg  [3:0]   o_code,
    output reg  [3:0]   o_unit,
    output reg  [31:0]  o_pc
);
    reg  [31:0]  still;
    reg          progress, late;
    wire         late_next = i_running && i_watchdog != 32'd0 && still == i_watchdog;
    reg  [19:0]  codes;
    reg  [159:0] pcs;
    reg  [3:0]   code, unit;
    reg  [31:0]  pc;
    integer      u;
    assign o_overflowed = i_overflow != 4'd0;
    always @* begin
        code = late ? `AXL_ERROR_WATCHDOG : `AXL_ERROR_NONE;
        unit = `AXL_UNIT_FETCH;
        pc   = pcs[31:0];
        for (u = 4; u >= 1; u = u - 1)
            if (i_overflow[u-1]) begin
                code = `AXL_ERROR_SEMAPHORE;
                unit = u[3:0];
                pc   = pcs[32*u +: 32];
            end
        for (u = 4; u >= 0; u = u - 1)
            if (codes[4*u +: 4] != 4'd0) begin
                code = codes[4*u +: 4];
                unit = u[3:0];
                pc   = pcs[32*u +: 32];
            end
    end
    always @(posedge i_clk) begin
        pcs      <= i_pc;
        progress <= i_progress;
        still    <= i_rst || progress || !i_running ? 32'd0 : still + 32'd1;
        if (i_rst) begin
            {codes, late, o_stop} <= 22'd0;
            o_error <= 1'b0;
            o_code  <= 4'd0;
            o_unit  <= 4'd0;
            o_pc    <= 32'd0;
        end else begin
            codes    <= i_code;
            late     <= late_next;
            o_stop   <= o_stop || o_overflowed || i_drain || late_next || i_code != 20'd0;
            if (!o_error && code != 4'd0) begin
                o_error <= 1'b1;
                o_code  <= code;
                o_unit  <= unit;
                o_pc    <= pc;
            end
        end
    end
endmodule
`default_nettype wire
