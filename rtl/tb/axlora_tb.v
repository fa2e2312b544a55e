// The top of a simulation: the machine and the memory model. The AXI4-Lite slave is driven from outside.
// Ports are public to the simulator's VPI (cocotb); nothing else is.
`default_nettype none
`include "axlora_isa.vh"
module axlora_tb #(
    `AXL_PARAMETERS,
    parameter MEMORY_BYTES = 1 << 20, parameter RLAT = 12, parameter WLAT = 6
) (
    input  wire i_clk /*verilator public_flat_rw*/,
    input  wire i_rst /*verilator public_flat_rw*/,
    input  wire s_axil_awvalid /*verilator public_flat_rw*/,
    input  wire [11:0] s_axil_awaddr /*verilator public_flat_rw*/,
    input  wire s_axil_wvalid /*verilator public_flat_rw*/,
    input  wire [31:0] s_axil_wdata /*verilator public_flat_rw*/,
    input  wire s_axil_bready /*verilator public_flat_rw*/,
    input  wire s_axil_arvalid /*verilator public_flat_rw*/,
    input  wire [11:0] s_axil_araddr /*verilator public_flat_rw*/,
    input  wire s_axil_rready /*verilator public_flat_rw*/,
    input  wire [31:0] i_bad_start /*verilator public_flat_rw*/,
    input  wire [31:0] i_bad_end /*verilator public_flat_rw*/,
    input  wire [31:0] i_stall /*verilator public_flat_rw*/,
    input  wire i_trace /*verilator public_flat_rw*/,
    input  wire i_fill /*verilator public_flat_rw*/,
    input  wire i_dump /*verilator public_flat_rw*/,
    input  wire [31:0] i_dump_first /*verilator public_flat_rw*/,
    input  wire [31:0] i_dump_last /*verilator public_flat_rw*/,
    input  wire [2047:0] i_file /*verilator public_flat_rw*/,
    output wire o_irq /*verilator public_flat_rw*/,
    output wire s_axil_awready /*verilator public_flat_rw*/,
    output wire s_axil_wready /*verilator public_flat_rw*/,
    output wire s_axil_bvalid /*verilator public_flat_rw*/,
    output wire [1:0] s_axil_bresp /*verilator public_flat_rw*/,
    output wire s_axil_arready /*verilator public_flat_rw*/,
    output wire s_axil_rvalid /*verilator public_flat_rw*/,
    output wire [31:0] s_axil_rdata /*verilator public_flat_rw*/,
    output wire [1:0] s_axil_rresp /*verilator public_flat_rw*/
);
    localparam BITS = 8 * BEAT_BYTES;
    wire            arvalid, arready, arid, rvalid, rready, rid, rlast, awvalid, awready, wvalid, wready, wlast, bvalid, bready;
    wire [31:0]     araddr, awaddr;
    wire [7:0]      arlen;
    wire [BITS-1:0] rdata, wdata;
    wire [BEAT_BYTES-1:0] wstrb;
    wire [1:0]      rresp, bresp, arburst, awburst;
    wire [2:0]      arsize, awsize;
    wire [7:0]      awlen;
    wire            awid, unused_busy;
    wire            unused_constant = &{1'b0, arsize, awsize, arburst, awburst, awlen, awid};
    axlora_top #(`AXL_PASS) u_top (
        .i_clk(i_clk), .i_rst(i_rst), .o_busy(unused_busy), .o_irq(o_irq), .i_s_axi_awvalid(s_axil_awvalid), .o_s_axi_awready(s_axil_awready),
        .i_s_axi_awaddr(s_axil_awaddr), .i_s_axi_wvalid(s_axil_wvalid), .o_s_axi_wready(s_axil_wready),
        .i_s_axi_wdata(s_axil_wdata), .o_s_axi_bvalid(s_axil_bvalid), .i_s_axi_bready(s_axil_bready),
        .o_s_axi_bresp(s_axil_bresp), .i_s_axi_arvalid(s_axil_arvalid), .o_s_axi_arready(s_axil_arready),
        .i_s_axi_araddr(s_axil_araddr), .o_s_axi_rvalid(s_axil_rvalid), .i_s_axi_rready(s_axil_rready),
        .o_s_axi_rdata(s_axil_rdata), .o_s_axi_rresp(s_axil_rresp),
        .o_m_axi_arvalid(arvalid), .i_m_axi_arready(arready), .o_m_axi_arid(arid), .o_m_axi_araddr(araddr),
        .o_m_axi_arlen(arlen), .o_m_axi_arsize(arsize), .o_m_axi_arburst(arburst), .i_m_axi_rvalid(rvalid), .o_m_axi_rready(rready),
        .i_m_axi_rid(rid), .i_m_axi_rdata(rdata), .i_m_axi_rresp(rresp), .i_m_axi_rlast(rlast), .o_m_axi_awvalid(awvalid),
        .i_m_axi_awready(awready), .o_m_axi_awid(awid), .o_m_axi_awaddr(awaddr), .o_m_axi_awlen(awlen), .o_m_axi_awsize(awsize),
        .o_m_axi_awburst(awburst), .o_m_axi_wvalid(wvalid), .i_m_axi_wready(wready), .o_m_axi_wdata(wdata), .o_m_axi_wstrb(wstrb),
        .o_m_axi_wlast(wlast), .i_m_axi_bvalid(bvalid), .o_m_axi_bready(bready), .i_m_axi_bresp(bresp));
    axi_memory #(.BEAT_BYTES(BEAT_BYTES), .BYTES(MEMORY_BYTES), .RLAT(RLAT), .WLAT(WLAT)) u_memory (
        .i_clk(i_clk), .i_rst(i_rst), .i_arvalid(arvalid), .o_arready(arready), .i_arid(arid), .i_araddr(araddr),
        .i_arlen(arlen), .o_rvalid(rvalid), .i_rready(rready), .o_rid(rid), .o_rdata(rdata), .o_rresp(rresp), .o_rlast(rlast),
        .i_awvalid(awvalid), .o_awready(awready), .i_awaddr(awaddr), .i_wvalid(wvalid), .o_wready(wready), .i_wdata(wdata),
        .i_wstrb(wstrb), .i_wlast(wlast), .o_bvalid(bvalid), .i_bready(bready), .o_bresp(bresp), .i_bad_start(i_bad_start),
        .i_bad_end(i_bad_end), .i_stall(i_stall), .i_fill(i_fill), .i_dump(i_dump), .i_dump_first(i_dump_first), .i_dump_last(i_dump_last),
        .i_file(i_file));
    trace u_trace (
        .i_clk(i_clk), .i_trace(i_trace), .i_file(i_file), .i_run(u_top.u_core.o_running), .i_accept(u_top.u_core.accept),
        .i_single(u_top.u_core.single), .i_done(u_top.u_core.done), .i_pcs(u_top.u_core.pcs[159:32]));
endmodule
`default_nettype wire
