// ULX3S (ECP5-85F, 25 MHz, FT231X serial, 32 MB SDRAM): pins, PLL, reset and pad flip-flops around axlora_board.
`default_nettype none
`include "axlora_isa.vh"
module ulx3s_top #(
    `AXL_PARAMETERS,
    parameter READ_LATENCY  = 16,
    parameter WRITE_LATENCY = 8,
    parameter ONCHIP_BYTES  = 65536,
    parameter SDRAM_BYTES   = 33554432,
    parameter DIVIDER       = 20,
    parameter CLOCK_KHZ     = 60000,
    parameter TARGET_ID     = 0,
    parameter PLL_REFERENCE = 5,    // clock = 25 MHz * PLL_FEEDBACK / PLL_REFERENCE
    parameter PLL_FEEDBACK  = 12,
    parameter PLL_OUTPUT    = 10    // VCO = clock * PLL_OUTPUT, 400 to 800 MHz
) (
    input  wire        clk_25mhz,
    input  wire        btn_f1,      // resets
    input  wire        ftdi_txd,
    output wire        ftdi_rxd,
    output wire [7:0]  led,
    output wire        wifi_gpio0,  // high keeps the ESP32 from resetting the board
    output wire        sdram_clk,
    output wire        sdram_cke,
    output wire        sdram_csn,
    output wire        sdram_rasn,
    output wire        sdram_casn,
    output wire        sdram_wen,
    output wire [1:0]  sdram_ba,
    output wire [12:0] sdram_a,
    output wire [1:0]  sdram_dqm,
    inout  wire [15:0] sdram_d
);
    wire clock, locked;
    (* FREQUENCY_PIN_CLKI = "25" *) (* ICP_CURRENT = "12" *) (* LPF_RESISTOR = "8" *) (* MFG_ENABLE_FILTEROPAMP = "1" *)
    (* MFG_GMCREF_SEL = "2" *)
    EHXPLLL #(
        .PLLRST_ENA("DISABLED"), .INTFB_WAKE("DISABLED"), .STDBY_ENABLE("DISABLED"), .DPHASE_SOURCE("DISABLED"),
        .OUTDIVIDER_MUXA("DIVA"), .OUTDIVIDER_MUXB("DIVB"), .OUTDIVIDER_MUXC("DIVC"), .OUTDIVIDER_MUXD("DIVD"),
        .CLKI_DIV(PLL_REFERENCE), .CLKFB_DIV(PLL_FEEDBACK), .CLKOP_ENABLE("ENABLED"), .CLKOP_DIV(PLL_OUTPUT),
        .CLKOP_CPHASE(PLL_OUTPUT - 1), .CLKOP_FPHASE(0), .FEEDBK_PATH("CLKOP")
    ) u_pll (
        .RST(1'b0), .STDBY(1'b0), .CLKI(clk_25mhz), .CLKOP(clock), .CLKFB(clock), .CLKINTFB(), .PHASESEL0(1'b0),
        .PHASESEL1(1'b0), .PHASEDIR(1'b1), .PHASESTEP(1'b1), .PHASELOADREG(1'b1), .PLLWAKESYNC(1'b0), .ENCLKOP(1'b0),
        .LOCK(locked));

    // Reset until the PLL has been locked for 2^16 cycles, and while the button is pressed.
    reg [15:0] wait_cycles;
    reg [1:0]  button;
    reg        reset;
    initial {wait_cycles, button, reset} = {16'd0, 2'd0, 1'b1};
    always @(posedge clock) begin
        button <= {button[0], btn_f1 || !locked};
        if (button[1]) wait_cycles <= 16'd0;
        else if (!(&wait_cycles)) wait_cycles <= wait_cycles + 16'd1;
        reset <= !(&wait_cycles);
    end

    wire [1:0]  status;
    wire [2:0]  command;
    wire [1:0]  bank, mask;
    wire [12:0] address;
    wire [15:0] dq_out, dq_in;
    wire        drive;
    axlora_board #(`AXL_PASS, .READ_LATENCY(READ_LATENCY), .WRITE_LATENCY(WRITE_LATENCY), .ONCHIP_BYTES(ONCHIP_BYTES),
                   .SDRAM_BYTES(SDRAM_BYTES), .SDRAM_PADS(2), .DIVIDER(DIVIDER), .CLOCK_KHZ(CLOCK_KHZ),
                   .TARGET_ID(TARGET_ID)) u_board (
        .i_clk(clock), .i_rst(reset), .i_rx(ftdi_txd), .o_tx(ftdi_rxd), .o_status(status), .o_sdram_command(command),
        .o_sdram_bank(bank), .o_sdram_address(address), .o_sdram_mask(mask), .o_sdram_dq(dq_out), .o_sdram_drive(drive),
        .i_sdram_dq(dq_in));
    assign led = {!reset, locked, 4'd0, status};
    assign {wifi_gpio0, sdram_cke, sdram_csn} = 3'b110;

    // Pads: a flip-flop each in the pad itself; the memory's clock rises half a cycle later.
    ODDRX1F u_clock (.SCLK(clock), .RST(1'b0), .D0(1'b0), .D1(1'b1), .Q(sdram_clk));
    wire [19:0] to_pad = {command, bank, address, mask};
    wire [19:0] at_pad;
    assign {sdram_rasn, sdram_casn, sdram_wen, sdram_ba, sdram_a, sdram_dqm} = at_pad;
    genvar n;
    generate
        for (n = 0; n < 20; n = n + 1) begin : g_out
            OFS1P3BX u_out (.SCLK(clock), .SP(1'b1), .PD(1'b0), .D(to_pad[n]), .Q(at_pad[n]));
        end
        for (n = 0; n < 16; n = n + 1) begin : g_dq
            wire out, off, in;
            OFS1P3BX u_out (.SCLK(clock), .SP(1'b1), .PD(1'b0), .D(dq_out[n]), .Q(out));
            OFS1P3BX u_off (.SCLK(clock), .SP(1'b1), .PD(1'b0), .D(!drive), .Q(off));
            IFS1P3BX u_in (.SCLK(clock), .SP(1'b1), .PD(1'b0), .D(in), .Q(dq_in[n]));
            BB u_pad (.I(out), .T(off), .O(in), .B(sdram_d[n]));
        end
    endgenerate
endmodule
`default_nettype wire
