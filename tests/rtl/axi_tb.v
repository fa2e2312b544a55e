// axlora_top with the port names of cocotbext-axi, and a watch on the master's AXI rules: VALID and its payload stay until READY,
// no burst crosses 4096 bytes, WLAST comes with the last beat only, never more read bursts than OUTSTANDING of load and
// FETCH_FLIGHTS of fetch.
`default_nettype none
`include "axlora_isa.vh"
module axi_tb #(
    `AXL_PARAMETERS
) (
    input  wire i_clk /*verilator public_flat_rw*/,
    input  wire i_rst /*verilator public_flat_rw*/,
    output wire o_irq /*verilator public_flat_rw*/,
    output reg  [3:0] o_broken /*verilator public_flat_rw*/,
    input  wire s_axil_awvalid /*verilator public_flat_rw*/,
    output wire s_axil_awready /*verilator public_flat_rw*/,
    input  wire [11:0] s_axil_awaddr /*verilator public_flat_rw*/,
    input  wire s_axil_wvalid /*verilator public_flat_rw*/,
    output wire s_axil_wready /*verilator public_flat_rw*/,
    input  wire [31:0] s_axil_wdata /*verilator public_flat_rw*/,
    output wire s_axil_bvalid /*verilator public_flat_rw*/,
    input  wire s_axil_bready /*verilator public_flat_rw*/,
    output wire [1:0] s_axil_bresp /*verilator public_flat_rw*/,
    input  wire s_axil_arvalid /*verilator public_flat_rw*/,
    output wire s_axil_arready /*verilator public_flat_rw*/,
    input  wire [11:0] s_axil_araddr /*verilator public_flat_rw*/,
    output wire s_axil_rvalid /*verilator public_flat_rw*/,
    input  wire s_axil_rready /*verilator public_flat_rw*/,
    output wire [31:0] s_axil_rdata /*verilator public_flat_rw*/,
    output wire [1:0] s_axil_rresp /*verilator public_flat_rw*/,
    output wire m_axi_arvalid /*verilator public_flat_rw*/,
    input  wire m_axi_arready /*verilator public_flat_rw*/,
    output wire m_axi_arid /*verilator public_flat_rw*/,
    output wire [31:0] m_axi_araddr /*verilator public_flat_rw*/,
    output wire [7:0] m_axi_arlen /*verilator public_flat_rw*/,
    output wire [2:0] m_axi_arsize /*verilator public_flat_rw*/,
    output wire [1:0] m_axi_arburst /*verilator public_flat_rw*/,
    input  wire m_axi_rvalid /*verilator public_flat_rw*/,
    output wire m_axi_rready /*verilator public_flat_rw*/,
    input  wire m_axi_rid /*verilator public_flat_rw*/,
    input  wire [8*BEAT_BYTES-1:0] m_axi_rdata /*verilator public_flat_rw*/,
    input  wire [1:0] m_axi_rresp /*verilator public_flat_rw*/,
    input  wire m_axi_rlast /*verilator public_flat_rw*/,
    output wire m_axi_awvalid /*verilator public_flat_rw*/,
    input  wire m_axi_awready /*verilator public_flat_rw*/,
    output wire m_axi_awid /*verilator public_flat_rw*/,
    output wire [31:0] m_axi_awaddr /*verilator public_flat_rw*/,
    output wire [7:0] m_axi_awlen /*verilator public_flat_rw*/,
    output wire [2:0] m_axi_awsize /*verilator public_flat_rw*/,
    output wire [1:0] m_axi_awburst /*verilator public_flat_rw*/,
    output wire m_axi_wvalid /*verilator public_flat_rw*/,
    input  wire m_axi_wready /*verilator public_flat_rw*/,
    output wire [8*BEAT_BYTES-1:0] m_axi_wdata /*verilator public_flat_rw*/,
    output wire [BEAT_BYTES-1:0] m_axi_wstrb /*verilator public_flat_rw*/,
    output wire m_axi_wlast /*verilator public_flat_rw*/,
    input  wire m_axi_bvalid /*verilator public_flat_rw*/,
    output wire m_axi_bready /*verilator public_flat_rw*/,
    input  wire m_axi_bid /*verilator public_flat_rw*/,
    input  wire [1:0] m_axi_bresp /*verilator public_flat_rw*/
);
    wire unused_busy;
    axlora_top #(`AXL_PASS) u_top (
        .i_clk(i_clk), .i_rst(i_rst), .o_busy(unused_busy), .o_irq(o_irq), .i_s_axi_awvalid(s_axil_awvalid),
        .o_s_axi_awready(s_axil_awready),
        .i_s_axi_awaddr(s_axil_awaddr), .i_s_axi_wvalid(s_axil_wvalid), .o_s_axi_wready(s_axil_wready),
        .i_s_axi_wdata(s_axil_wdata), .o_s_axi_bvalid(s_axil_bvalid), .i_s_axi_bready(s_axil_bready),
        .o_s_axi_bresp(s_axil_bresp), .i_s_axi_arvalid(s_axil_arvalid), .o_s_axi_arready(s_axil_arready),
        .i_s_axi_araddr(s_axil_araddr), .o_s_axi_rvalid(s_axil_rvalid), .i_s_axi_rready(s_axil_rready),
        .o_s_axi_rdata(s_axil_rdata), .o_s_axi_rresp(s_axil_rresp), .o_m_axi_arvalid(m_axi_arvalid),
        .i_m_axi_arready(m_axi_arready), .o_m_axi_arid(m_axi_arid), .o_m_axi_araddr(m_axi_araddr), .o_m_axi_arlen(m_axi_arlen),
        .o_m_axi_arsize(m_axi_arsize), .o_m_axi_arburst(m_axi_arburst), .i_m_axi_rvalid(m_axi_rvalid),
        .o_m_axi_rready(m_axi_rready), .i_m_axi_rid(m_axi_rid), .i_m_axi_rdata(m_axi_rdata), .i_m_axi_rresp(m_axi_rresp),
        .i_m_axi_rlast(m_axi_rlast), .o_m_axi_awvalid(m_axi_awvalid), .i_m_axi_awready(m_axi_awready),
        .o_m_axi_awid(m_axi_awid), .o_m_axi_awaddr(m_axi_awaddr), .o_m_axi_awlen(m_axi_awlen), .o_m_axi_awsize(m_axi_awsize),
        .o_m_axi_awburst(m_axi_awburst), .o_m_axi_wvalid(m_axi_wvalid), .i_m_axi_wready(m_axi_wready),
        .o_m_axi_wdata(m_axi_wdata), .o_m_axi_wstrb(m_axi_wstrb), .o_m_axi_wlast(m_axi_wlast), .i_m_axi_bvalid(m_axi_bvalid),
        .o_m_axi_bready(m_axi_bready), .i_m_axi_bresp(m_axi_bresp));
    wire unused_id = &{1'b0, m_axi_bid};

    wire [45:0]               ar = {m_axi_arid, m_axi_araddr, m_axi_arlen, m_axi_arsize, m_axi_arburst};
    wire [45:0]               aw = {m_axi_awid, m_axi_awaddr, m_axi_awlen, m_axi_awsize, m_axi_awburst};
    wire [9*BEAT_BYTES:0]     w  = {m_axi_wdata, m_axi_wstrb, m_axi_wlast};
    reg  [45:0]               last_ar, last_aw;
    reg  [9*BEAT_BYTES:0]     last_w;
    reg                       held_ar, held_aw, held_w;
    reg  [7:0]                reads, beats, length;
    localparam integer MOST_VALUE = OUTSTANDING + `AXL_FETCH_FLIGHTS;
    localparam [7:0]  MOST = MOST_VALUE[7:0];
    localparam [15:0] BEAT = BEAT_BYTES[15:0];
    function crosses(input [11:0] address, input [7:0] count);
        crosses = {4'd0, address} + ({8'd0, count} + 16'd1) * BEAT > 16'd4096;
    endfunction
    always @(posedge i_clk) begin
        {last_ar, last_aw, last_w} <= {ar, aw, w};
        held_ar <= m_axi_arvalid && !m_axi_arready && !i_rst;
        held_aw <= m_axi_awvalid && !m_axi_awready && !i_rst;
        held_w  <= m_axi_wvalid && !m_axi_wready && !i_rst;
        reads   <= reads + {7'd0, m_axi_arvalid && m_axi_arready} - {7'd0, m_axi_rvalid && m_axi_rready && m_axi_rlast};
        if (m_axi_awvalid && m_axi_awready) length <= m_axi_awlen;
        if (m_axi_wvalid && m_axi_wready) beats <= m_axi_wlast ? 8'd0 : beats + 8'd1;
        if ((held_ar && (!m_axi_arvalid || ar != last_ar)) || (held_aw && (!m_axi_awvalid || aw != last_aw))
            || (held_w && (!m_axi_wvalid || w != last_w))) o_broken[0] <= 1'b1;
        if ((m_axi_arvalid && crosses(m_axi_araddr[11:0], m_axi_arlen))
            || (m_axi_awvalid && crosses(m_axi_awaddr[11:0], m_axi_awlen))) o_broken[1] <= 1'b1;
        if (m_axi_wvalid && m_axi_wready && m_axi_wlast
            != (beats == (m_axi_awvalid && m_axi_awready ? m_axi_awlen : length))) o_broken[2] <= 1'b1;
        if (reads > MOST) o_broken[3] <= 1'b1;
        if (i_rst) begin
            {held_ar, held_aw, held_w} <= 3'b000;
            {reads, beats, length}     <= 24'd0;
            o_broken                   <= 4'd0;
        end
    end
endmodule
`default_nettype wire
