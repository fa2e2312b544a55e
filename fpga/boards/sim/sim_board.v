// The board for simulation: axlora_board, the pads' flip-flops and a memory whose clock is inverted, as on the ULX3S.
`default_nettype none
`include "axlora_isa.vh"
module sim_board #(
    `AXL_PARAMETERS,
    parameter READ_LATENCY  = 16,
    parameter WRITE_LATENCY = 8,
    parameter ONCHIP_BYTES  = 65536,
    parameter SDRAM_BYTES   = 33554432,
    parameter DIVIDER       = 4,
    parameter CLOCK_KHZ     = 60000,
    parameter TARGET_ID     = 0
) (
    input  wire i_clk,
    input  wire i_rst,
    input  wire i_rx,
    output wire o_tx,
    output wire o_busy,
    output wire o_wrong
);
    localparam CLOCK_MHZ = (CLOCK_KHZ + 999) / 1000;
    wire [1:0]  status, bank, mask;
    wire [2:0]  command;
    wire [12:0] address;
    wire [15:0] dq_out, dq_memory;
    wire        drive;
    reg  [36:0] pads;
    reg  [15:0] dq_in;
    wire        unused_ready = status[1];
    assign o_busy = status[0];
    initial pads = {37{1'b1}};  // as the ECP5's presettable pad flip-flops
    always @(posedge i_clk) begin
        pads  <= {command, bank, address, mask, dq_out, drive};
        dq_in <= dq_memory;
    end
    axlora_board #(`AXL_PASS, .READ_LATENCY(READ_LATENCY), .WRITE_LATENCY(WRITE_LATENCY), .ONCHIP_BYTES(ONCHIP_BYTES),
                   .SDRAM_BYTES(SDRAM_BYTES), .SDRAM_PADS(2), .POWER_UP_US(2), .DIVIDER(DIVIDER), .GAP(16384),
                   .CLOCK_KHZ(CLOCK_KHZ), .TARGET_ID(TARGET_ID)) u_board (
        .i_clk(i_clk), .i_rst(i_rst), .i_rx(i_rx), .o_tx(o_tx), .o_status(status), .o_sdram_command(command),
        .o_sdram_bank(bank), .o_sdram_address(address), .o_sdram_mask(mask), .o_sdram_dq(dq_out), .o_sdram_drive(drive),
        .i_sdram_dq(dq_in));
    sdram_model #(.CLOCK_MHZ(CLOCK_MHZ), .ROWS($clog2(SDRAM_BYTES) - 12)) u_memory (
        .i_clk(!i_clk), .i_command(pads[36:34]), .i_bank(pads[33:32]), .i_address(pads[31:19]), .i_mask(pads[18:17]),
        .i_dq(pads[16:1]), .i_drive(pads[0]), .o_dq(dq_memory), .o_wrong(o_wrong));
endmodule
`default_nettype wire
