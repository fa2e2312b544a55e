// The AXI4-Lite slave: start and reset, status, interrupt, limits, registers, counters. One access at a time, writes first.
// READY is a register, set for one cycle after VALID (a write's: after both): no path leads from an AXI input to an AXI output.
`default_nettype none
`include "axlora_isa.vh"
module control (
    input  wire        i_clk,
    input  wire        i_rst,
    input  wire        i_awvalid,
    output reg         o_awready,
    input  wire [11:0] i_awaddr,
    input  wire        i_wvalid,
    output wire        o_wready,
    input  wire [31:0] i_wdata,
    output reg         o_bvalid,
    input  wire        i_bready,
    input  wire        i_arvalid,
    output reg         o_arready,
    input  wire [11:0] i_araddr,
    output reg         o_rvalid,
    input  wire        i_rready,
    output reg  [31:0] o_rdata,
    output reg         o_irq,
    input  wire        i_running,
    input  wire        i_axi_active,
    input  wire        i_halt,
    input  wire        i_error,
    input  wire [3:0]  i_error_code,
    input  wire [3:0]  i_error_unit,
    input  wire [31:0] i_error_pc,
    output reg         o_start,
    output reg         o_reset,
    output wire        o_drain,        // a cycle before a soft reset waits for the bus: nothing new is issued
    output reg  [31:0] o_program,
    output reg  [31:0] o_base,
    output reg  [31:0] o_limit,
    output reg  [31:0] o_watchdog,
    output wire        o_host_write,
    output wire [7:0]  o_host_register,  // R0..R31, then R16..R31 of windows 1, 2 ..
    output wire [31:0] o_host_data,
    input  wire [31:0] i_host_data,
    output wire [8:0]  o_counter,
    input  wire [63:0] i_counter
);
    reg         done, was_error, enable, pending, reset_wanted, drained;
    wire        writable = i_awvalid && i_wvalid && !o_awready && !o_bvalid;
    wire        readable = i_arvalid && !o_arready && !o_rvalid && !writable && !o_awready;
    wire        write = i_awvalid && i_wvalid && o_awready;
    wire        read  = i_arvalid && o_arready;
    wire [11:0] at    = {i_awaddr[11:2], 2'b00};
    wire        busy  = i_running || i_axi_active || o_start || reset_wanted;
    wire        is_first_w  = i_awaddr[11:7] == 5'd1, is_window_w = i_awaddr[11:10] == 2'd1;
    wire        is_first_r  = i_araddr[11:7] == 5'd1, is_window_r = i_araddr[11:10] == 2'd1;
    wire [7:0]  number_w    = {is_window_w ? i_awaddr[9:7] : 3'd0, i_awaddr[6:2]};
    wire [7:0]  number_r    = {is_window_r ? i_araddr[9:7] : 3'd0, i_araddr[6:2]};
    wire        unused_bits = &{1'b0, i_awaddr[1:0], i_araddr[1:0]};
    assign o_wready        = o_awready;
    assign o_drain         = !o_reset && (reset_wanted || (write && at == `AXL_REG_CTRL && i_wdata[1]));
    assign o_host_write    = write && (is_first_w || is_window_w);
    assign o_host_register = write ? number_w : number_r;
    assign o_host_data     = i_wdata;
    assign o_counter       = i_araddr[11:3] - 9'd32;

    // The cycle of ARVALID looks counters and registers up, that of ARREADY chooses.
    reg [31:0] value, counter, register;
    always @(posedge i_clk) {counter, register} <= {i_araddr[2] ? i_counter[63:32] : i_counter[31:0], i_host_data};
    always @*
        case ({i_araddr[11:2], 2'b00})
            `AXL_REG_STATUS: value = {29'd0, i_error, done, busy};
            `AXL_REG_IRQ_ENABLE: value = {31'd0, enable};
            `AXL_REG_IRQ_STATUS: value = {31'd0, pending};
            `AXL_REG_PROGRAM: value = o_program;
            `AXL_REG_MEM_BASE: value = o_base;
            `AXL_REG_MEM_LIMIT: value = o_limit;
            `AXL_REG_WATCHDOG: value = o_watchdog;
            `AXL_REG_ERR_CODE: value = {20'd0, i_error_unit, 4'd0, i_error_code};
            `AXL_REG_ERR_ADDR: value = i_error_pc;
            `AXL_REG_ID: value = `AXL_MACHINE_ID;
            default: value = is_first_r || is_window_r ? register : i_araddr[11:8] == 4'd0 ? 32'd0 : counter;
        endcase

    always @(posedge i_clk) begin
        if (read) o_rdata <= value;
        if (i_rst) begin
            {o_awready, o_arready, o_bvalid, o_rvalid, o_irq, o_start, o_reset} <= 7'd0;
            {done, was_error, enable, pending, reset_wanted, drained} <= 6'd0;
            o_program  <= 32'd0;
            o_base     <= 32'd0;
            o_limit    <= 32'd0;
            o_watchdog <= 32'd0;
        end else begin
            o_awready <= writable;
            o_arready <= readable;
            o_bvalid  <= write || (o_bvalid && !i_bready);
            o_rvalid  <= read || (o_rvalid && !i_rready);
            o_irq     <= pending && enable;
            o_start   <= write && at == `AXL_REG_CTRL && i_wdata[0] && !i_wdata[1] && !busy;
            drained   <= reset_wanted;  // a burst may begin in the first cycle
            o_reset   <= reset_wanted && drained && !i_axi_active;
            was_error <= i_error;
            reset_wanted <= o_drain;
            if (o_start || o_reset) done <= 1'b0;
            else if (i_halt) done <= 1'b1;
            if (i_halt || (i_error && !was_error)) pending <= 1'b1;
            else if (write && at == `AXL_REG_IRQ_STATUS && i_wdata[0]) pending <= 1'b0;
            if (write)
                case (at)
                    `AXL_REG_IRQ_ENABLE: enable <= i_wdata[0];
                    `AXL_REG_PROGRAM: o_program <= {i_wdata[31:6], 6'd0};
                    `AXL_REG_MEM_BASE: if (!i_running && !i_axi_active) o_base <= {i_wdata[31:12], 12'd0};
                    `AXL_REG_MEM_LIMIT: o_limit <= i_wdata;
                    `AXL_REG_WATCHDOG: o_watchdog <= i_wdata;
                    default: ;
                endcase
        end
    end
endmodule
`default_nettype wire
