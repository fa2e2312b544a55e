// AxLoRA: fetch, load, matrix, vector, store; AXI4 master for memory, AXI4-Lite slave for control.
`default_nettype none
`include "axlora_isa.vh"
module axlora_top #(
    `AXL_PARAMETERS
) (
    input  wire                    i_clk,
    input  wire                    i_rst,
    output wire                    o_busy,
    output wire                    o_irq,
    input  wire                    i_s_axi_awvalid,
    output wire                    o_s_axi_awready,
    input  wire [11:0]             i_s_axi_awaddr,
    input  wire                    i_s_axi_wvalid,
    output wire                    o_s_axi_wready,
    input  wire [31:0]             i_s_axi_wdata,
    output wire                    o_s_axi_bvalid,
    input  wire                    i_s_axi_bready,
    output wire [1:0]              o_s_axi_bresp,
    input  wire                    i_s_axi_arvalid,
    output wire                    o_s_axi_arready,
    input  wire [11:0]             i_s_axi_araddr,
    output wire                    o_s_axi_rvalid,
    input  wire                    i_s_axi_rready,
    output wire [31:0]             o_s_axi_rdata,
    output wire [1:0]              o_s_axi_rresp,
    output wire                    o_m_axi_arvalid,
    input  wire                    i_m_axi_arready,
    output wire                    o_m_axi_arid,
    output wire [31:0]             o_m_axi_araddr,
    output wire [7:0]              o_m_axi_arlen,
    output wire [2:0]              o_m_axi_arsize,
    output wire [1:0]              o_m_axi_arburst,
    input  wire                    i_m_axi_rvalid,
    output wire                    o_m_axi_rready,
    input  wire                    i_m_axi_rid,
    input  wire [8*BEAT_BYTES-1:0] i_m_axi_rdata,
    input  wire [1:0]              i_m_axi_rresp,
    input  wire                    i_m_axi_rlast,
    output wire                    o_m_axi_awvalid,
    input  wire                    i_m_axi_awready,
    output wire                    o_m_axi_awid,
    output wire [31:0]             o_m_axi_awaddr,
    output wire [7:0]              o_m_axi_awlen,
    output wire [2:0]              o_m_axi_awsize,
    output wire [1:0]              o_m_axi_awburst,
    output wire                    o_m_axi_wvalid,
    input  wire                    i_m_axi_wready,
    output wire [8*BEAT_BYTES-1:0] o_m_axi_wdata,
    output wire [BEAT_BYTES-1:0]   o_m_axi_wstrb,
    output wire                    o_m_axi_wlast,
    input  wire                    i_m_axi_bvalid,
    output wire                    o_m_axi_bready,
    input  wire [1:0]              i_m_axi_bresp
);
    localparam integer LOGB = $clog2(BEAT_BYTES);
    localparam [2:0] SIZE = LOGB[2:0];
    assign {o_m_axi_arsize, o_m_axi_arburst, o_m_axi_awsize, o_m_axi_awburst} = {SIZE, 2'b01, SIZE, 2'b01};
    assign {o_m_axi_awid, o_m_axi_rready, o_m_axi_bready} = 3'b011;
    assign {o_s_axi_bresp, o_s_axi_rresp} = 4'd0;

    wire        start, reset, drain, host_write, error, axi_busy;
    wire        running, halt;
    wire [3:0]  error_code, error_unit;
    wire [31:0] error_pc, program_at, base, limit, watchdog, host_data, host_read;
    wire [7:0]  host_register;
    wire [8:0]  counter_index;
    wire [63:0] counter_value;
    control u_control (
        .i_clk(i_clk), .i_rst(i_rst), .i_awvalid(i_s_axi_awvalid), .o_awready(o_s_axi_awready), .i_awaddr(i_s_axi_awaddr),
        .i_wvalid(i_s_axi_wvalid), .o_wready(o_s_axi_wready), .i_wdata(i_s_axi_wdata), .o_bvalid(o_s_axi_bvalid),
        .i_bready(i_s_axi_bready), .i_arvalid(i_s_axi_arvalid), .o_arready(o_s_axi_arready), .i_araddr(i_s_axi_araddr),
        .o_rvalid(o_s_axi_rvalid), .i_rready(i_s_axi_rready), .o_rdata(o_s_axi_rdata), .o_irq(o_irq), .i_running(running),
        .i_axi_active(axi_busy), .i_halt(halt), .i_error(error), .i_error_code(error_code), .i_error_unit(error_unit),
        .i_error_pc(error_pc), .o_start(start), .o_reset(reset), .o_drain(drain), .o_program(program_at), .o_base(base),
        .o_limit(limit), .o_watchdog(watchdog), .o_host_write(host_write), .o_host_register(host_register), .o_host_data(host_data),
        .i_host_data(host_read), .o_counter(counter_index), .i_counter(counter_value));

    axlora_core #(`AXL_PASS) u_core (
        .i_clk(i_clk), .i_power(i_rst), .i_reset(reset), .i_drain(drain), .i_start(start), .i_program(program_at),
        .i_base(base), .i_limit(limit), .i_watchdog(watchdog), .i_host_write(host_write), .i_host_register(host_register),
        .i_host_data(host_data), .o_host_data(host_read), .i_counter(counter_index), .o_counter(counter_value),
        .o_running(running), .o_axi_busy(axi_busy), .o_halt(halt), .o_error(error), .o_error_code(error_code),
        .o_error_unit(error_unit), .o_error_pc(error_pc),
        .o_arvalid(o_m_axi_arvalid), .i_arready(i_m_axi_arready), .o_arid(o_m_axi_arid), .o_araddr(o_m_axi_araddr),
        .o_arlen(o_m_axi_arlen), .i_rvalid(i_m_axi_rvalid), .i_rid(i_m_axi_rid), .i_rdata(i_m_axi_rdata),
        .i_rbad(i_m_axi_rresp[1]), .i_rlast(i_m_axi_rlast), .o_awvalid(o_m_axi_awvalid), .i_awready(i_m_axi_awready),
        .o_awaddr(o_m_axi_awaddr), .o_awlen(o_m_axi_awlen), .o_wvalid(o_m_axi_wvalid), .i_wready(i_m_axi_wready),
        .o_wdata(o_m_axi_wdata), .o_wlast(o_m_axi_wlast), .o_wstrb(o_m_axi_wstrb), .i_bvalid(i_m_axi_bvalid), .i_bbad(i_m_axi_bresp[1]));
    assign o_busy = running || axi_busy;
    wire unused_resp = &{1'b0, i_m_axi_rresp[0], i_m_axi_bresp[0]};

    // A parameter out of range names a module that does not exist.
    generate
        if (VECTOR_LANES > PORTS || VECTOR_LANES > LANES || VECTOR_LANES > 16) begin : g_bad_vector
            error_VECTOR_LANES_too_large u_error ();
        end
        if (MULTIPLIERS > PORTS || (ENGINE == `AXL_ENGINE_REUSE && MULTIPLIERS > 4)
            || (ENGINE == `AXL_ENGINE_TABLE && MULTIPLIERS > 2)) begin : g_bad_multipliers
            error_MULTIPLIERS_too_large u_error ();
        end
        if (LANES * PORTS < BEAT_BYTES || LANES * TOKENS * ACTIVATION_BITS < 8 * BEAT_BYTES) begin : g_bad_line
            error_line_smaller_than_beat u_error ();
        end
        if (FIFO_DEPTH < LATENCY + 4) begin : g_bad_fifo
            error_FIFO_DEPTH_below_LATENCY_plus_4 u_error ();
        end
        if (BURST_BEATS * BEAT_BYTES > 4096 || BURST_BEATS * BEAT_BYTES < 64) begin : g_bad_burst
            error_BURST_BEATS_out_of_range u_error ();
        end
    endgenerate
endmodule
`default_nettype wire
