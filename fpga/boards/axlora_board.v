// The machine with its memories and a serial line to the host; what a board's top wraps in pins and clocks.
// Memory addresses: on-chip from 0, SDRAM from 0x80000000 (MEM_BASE of the machine says where a program's memory lies).
// Register addresses of the serial protocol: below 0x1000 the machine's, from 0x1000 the board's (docs/board.md).
`default_nettype none
`include "axlora_isa.vh"
module axlora_board #(
    `AXL_PARAMETERS,
    parameter READ_LATENCY  = 16,
    parameter WRITE_LATENCY = 8,
    parameter ONCHIP_BYTES  = 65536,
    parameter SDRAM_BYTES   = 0,
    parameter SDRAM_PADS    = 0,
    parameter POWER_UP_US   = 200,
    parameter DIVIDER       = 20,
    parameter GAP           = 1 << 20,
    parameter CLOCK_KHZ     = 60000,
    parameter TARGET_ID     = 0
) (
    input  wire        i_clk,
    input  wire        i_rst,
    input  wire        i_rx,
    output wire        o_tx,
    output wire [1:0]  o_status,        // SDRAM ready, machine busy
    output wire [2:0]  o_sdram_command,
    output wire [1:0]  o_sdram_bank,
    output wire [12:0] o_sdram_address,
    output wire [1:0]  o_sdram_mask,
    output wire [15:0] o_sdram_dq,
    output wire        o_sdram_drive,
    input  wire [15:0] i_sdram_dq
);
    localparam BITS = 8 * BEAT_BYTES;

    // Serial bridge.
    wire            word, word_write, word_done, memory, b_arvalid, b_awvalid, b_wvalid, b_wlast;
    wire [15:0]     word_at;
    wire [31:0]     word_out, word_in, b_addr;
    wire [7:0]      b_len;
    wire [BITS-1:0] b_wdata;
    wire            busy, arready, awready, wready, rvalid, rid, rlast, bvalid;
    wire [BITS-1:0] rdata;
    wire [1:0]      rresp, bresp;
    uart_bridge #(.BEAT_BYTES(BEAT_BYTES), .DIVIDER(DIVIDER), .GAP(GAP)) u_bridge (
        .i_clk(i_clk), .i_rst(i_rst), .i_rx(i_rx), .o_tx(o_tx), .i_busy(busy), .o_register(word), .o_register_write(word_write),
        .o_register_address(word_at), .o_register_data(word_out), .i_register_done(word_done), .i_register_data(word_in),
        .o_memory(memory), .o_arvalid(b_arvalid), .i_arready(arready), .o_addr(b_addr), .o_len(b_len),
        .i_rvalid(rvalid && memory), .i_rdata(rdata), .i_rbad(rresp[1]), .i_rlast(rlast), .o_awvalid(b_awvalid),
        .i_awready(awready), .o_wvalid(b_wvalid), .i_wready(wready), .o_wdata(b_wdata), .o_wlast(b_wlast),
        .i_bvalid(bvalid && memory), .i_bbad(bresp[1]));

    // Registers: the machine's by AXI4-Lite, the board's own here.
    wire        own = word_at[15:12] != 4'd0;
    wire        aw_ready, b_valid, ar_ready, r_valid;
    wire [31:0] r_data;
    reg         asked, own_done, busy_seen;
    reg  [31:0] own_data, nonce, starts;
    wire        to_machine = word && !own && !asked;
    wire        sdram_ready, irq;
    assign word_done = own ? own_done : b_valid || r_valid;
    assign word_in   = own ? own_data : r_data;
    assign o_status  = {sdram_ready, busy};
    always @(posedge i_clk) begin
        own_done <= word && own && !own_done;
        case (word_at[5:2])
            4'd0: own_data <= 32'h41584231;
            4'd1: own_data <= TARGET_ID;
            4'd2: own_data <= CLOCK_KHZ;
            4'd3: own_data <= ONCHIP_BYTES;
            4'd4: own_data <= SDRAM_BYTES;
            4'd5: own_data <= nonce;
            4'd6: own_data <= starts;
            4'd7: own_data <= {31'd0, sdram_ready};
            default: own_data <= 32'd0;
        endcase
        busy_seen <= busy;
        if (i_rst) begin
            asked  <= 1'b0;
            nonce  <= 32'd0;
            starts <= 32'd0;
        end else begin
            asked <= word && !word_done && (asked || (to_machine && (word_write ? aw_ready : ar_ready)));
            if (word && own && word_write && word_at[5:2] == 4'd5) nonce <= word_out;
            if (busy && !busy_seen) starts <= starts + 32'd1;
        end
    end

    // The machine; its AXI is the bridge's whenever it is idle.
    wire                  m_arvalid, m_awvalid, m_wvalid, m_wlast;
    wire [31:0]           m_araddr, m_awaddr;
    wire [7:0]            m_arlen, m_awlen;
    wire [BITS-1:0]       m_wdata;
    wire [BEAT_BYTES-1:0] m_wstrb;
    wire                  m_arid;
    wire                  unused_ready, unused_awid, unused_rready, unused_bready;
    wire [1:0]            unused_sb, unused_sr, unused_arburst, unused_awburst;
    wire [2:0]            unused_arsize, unused_awsize;
    wire                  unused_bits = &{1'b0, irq, m_awlen, rresp[0], bresp[0]};
    axlora_top #(`AXL_PASS) u_top (
        .i_clk(i_clk), .i_rst(i_rst), .o_busy(busy), .o_irq(irq), .i_s_axi_awvalid(to_machine && word_write), .o_s_axi_awready(aw_ready),
        .i_s_axi_awaddr(word_at[11:0]), .i_s_axi_wvalid(to_machine && word_write), .o_s_axi_wready(unused_ready),
        .i_s_axi_wdata(word_out), .o_s_axi_bvalid(b_valid), .i_s_axi_bready(1'b1), .o_s_axi_bresp(unused_sb),
        .i_s_axi_arvalid(to_machine && !word_write), .o_s_axi_arready(ar_ready), .i_s_axi_araddr(word_at[11:0]),
        .o_s_axi_rvalid(r_valid), .i_s_axi_rready(1'b1), .o_s_axi_rdata(r_data), .o_s_axi_rresp(unused_sr),
        .o_m_axi_arvalid(m_arvalid), .i_m_axi_arready(arready && !memory), .o_m_axi_arid(m_arid),
        .o_m_axi_araddr(m_araddr), .o_m_axi_arlen(m_arlen), .o_m_axi_arsize(unused_arsize), .o_m_axi_arburst(unused_arburst),
        .i_m_axi_rvalid(rvalid && !memory), .o_m_axi_rready(unused_rready), .i_m_axi_rid(rid), .i_m_axi_rdata(rdata),
        .i_m_axi_rresp(rresp), .i_m_axi_rlast(rlast), .o_m_axi_awvalid(m_awvalid), .i_m_axi_awready(awready && !memory),
        .o_m_axi_awid(unused_awid), .o_m_axi_awaddr(m_awaddr), .o_m_axi_awlen(m_awlen), .o_m_axi_awsize(unused_awsize),
        .o_m_axi_awburst(unused_awburst), .o_m_axi_wvalid(m_wvalid), .i_m_axi_wready(wready && !memory),
        .o_m_axi_wdata(m_wdata), .o_m_axi_wstrb(m_wstrb), .o_m_axi_wlast(m_wlast), .i_m_axi_bvalid(bvalid && !memory),
        .o_m_axi_bready(unused_bready), .i_m_axi_bresp(bresp));

    // The memories, by the top bit of an address.
    wire            arvalid = memory ? b_arvalid : m_arvalid, awvalid = memory ? b_awvalid : m_awvalid;
    wire            wvalid = memory ? b_wvalid : m_wvalid, wlast = memory ? b_wlast : m_wlast;
    wire [31:0]     araddr = memory ? b_addr : m_araddr, awaddr = memory ? b_addr : m_awaddr;
    wire [7:0]      arlen = memory ? b_len : m_arlen;
    wire [BITS-1:0] wdata = memory ? b_wdata : m_wdata;
    wire [BEAT_BYTES-1:0] wstrb = memory ? {BEAT_BYTES{1'b1}} : m_wstrb;
    wire            near_rvalid, near_rid, near_rlast, near_bvalid, far_rvalid, far_rid, far_rlast, far_bvalid;
    wire            far_arready, far_awready, far_wready;
    wire [BITS-1:0] near_rdata, far_rdata;
    wire [1:0]      near_rresp, near_bresp, far_resp;
    wire            far_read = araddr[31], far_write = awaddr[31];
    reg             far_writing;
    assign arready = !far_read || far_arready;
    assign awready = !far_write || far_awready;
    assign wready  = !far_writing || far_wready;
    assign {rvalid, rid, rlast} = far_rvalid ? {1'b1, far_rid, far_rlast} : {near_rvalid, near_rid, near_rlast};
    assign rdata  = far_rvalid ? far_rdata : near_rdata;
    assign rresp  = far_rvalid ? far_resp : near_rresp;
    assign bvalid = far_bvalid || near_bvalid;
    assign bresp  = far_bvalid ? far_resp : near_bresp;
    always @(posedge i_clk) if (awvalid && awready) far_writing <= far_write;
    onchip_memory #(.BEAT_BYTES(BEAT_BYTES), .BYTES(ONCHIP_BYTES), .RLAT(READ_LATENCY), .WLAT(WRITE_LATENCY)) u_onchip (
        .i_clk(i_clk), .i_rst(i_rst), .i_arvalid(arvalid && !far_read), .i_arid(m_arid), .i_araddr(araddr), .i_arlen(arlen),
        .o_rvalid(near_rvalid), .o_rid(near_rid), .o_rdata(near_rdata), .o_rresp(near_rresp), .o_rlast(near_rlast),
        .i_awvalid(awvalid && !far_write), .i_awaddr(awaddr), .i_wvalid(wvalid && !far_writing), .i_wdata(wdata),
        .i_wstrb(wstrb), .i_wlast(wlast), .o_bvalid(near_bvalid), .o_bresp(near_bresp));
    generate
        if (SDRAM_BYTES != 0) begin : g_sdram
            localparam integer ROWS_VALUE = $clog2(SDRAM_BYTES) - 12;   // four banks of 512 columns of two bytes
            assign far_resp = 2'b00;
            sdram #(.BEAT_BYTES(BEAT_BYTES), .CLOCK_MHZ((CLOCK_KHZ + 999) / 1000), .ROWS(ROWS_VALUE),
                    .POWER_UP_US(POWER_UP_US), .PADS(SDRAM_PADS)) u_sdram (
                .i_clk(i_clk), .i_rst(i_rst), .o_ready(sdram_ready), .i_arvalid(arvalid && far_read), .o_arready(far_arready),
                .i_arid(m_arid), .i_araddr(araddr), .i_arlen(arlen), .o_rvalid(far_rvalid), .o_rid(far_rid), .o_rdata(far_rdata),
                .o_rlast(far_rlast), .i_awvalid(awvalid && far_write), .o_awready(far_awready), .i_awaddr(awaddr),
                .i_wvalid(wvalid && far_writing), .o_wready(far_wready), .i_wdata(wdata), .i_wstrb(wstrb), .i_wlast(wlast),
                .o_bvalid(far_bvalid), .o_command(o_sdram_command), .o_bank(o_sdram_bank), .o_address(o_sdram_address),
                .o_mask(o_sdram_mask), .o_dq(o_sdram_dq), .o_drive(o_sdram_drive), .i_dq(i_sdram_dq));
        end else begin : g_none
            // Without SDRAM its addresses answer with an error, a beat at a time.
            wire unused_dq = &{1'b0, i_sdram_dq};
            assign {o_sdram_command, o_sdram_bank, o_sdram_address, o_sdram_mask, o_sdram_dq, o_sdram_drive} = {3'b111, 34'd0};
            assign far_resp = 2'b11;
            assign far_rdata = {BITS{1'b0}};
            assign {sdram_ready, far_awready, far_wready} = 3'b111;
            reg        reading, answer, id;
            reg  [7:0] beats;
            assign far_arready = !reading;
            assign {far_rvalid, far_rid, far_rlast, far_bvalid} = {reading, id, beats == 8'd0, answer};
            always @(posedge i_clk) begin
                answer <= !i_rst && wvalid && far_writing && wlast;
                if (i_rst) reading <= 1'b0;
                else if (!reading) begin
                    reading <= arvalid && far_read;
                    {beats, id} <= {arlen, m_arid};
                end else begin
                    beats   <= beats - 8'd1;
                    reading <= beats != 8'd0;
                end
            end
        end
    endgenerate
endmodule
`default_nettype wire
