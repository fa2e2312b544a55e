// A 16-bit SDR SDRAM for simulation: four banks, CAS latency 3, burst length 1. Checks what a controller may not do:
// commands before initialisation, to closed or open rows, too soon after others (JEDEC -7 in cycles of CLOCK_MHZ), a late refresh.
`default_nettype none
module sdram_model #(
    parameter CLOCK_MHZ = 60,
    parameter COLUMNS   = 9,
    parameter ROWS      = 13
) (
    input  wire        i_clk,      // commands are taken at its rising edge
    input  wire [2:0]  i_command,
    input  wire [1:0]  i_bank,
    input  wire [12:0] i_address,
    input  wire [1:0]  i_mask,
    input  wire [15:0] i_dq,
    input  wire        i_drive,
    output reg  [15:0] o_dq,
    output reg         o_wrong
);
    localparam integer RCD = (20 * CLOCK_MHZ + 999) / 1000, RP = RCD, RAS = (45 * CLOCK_MHZ + 999) / 1000;
    localparam integer RFC = (66 * CLOCK_MHZ + 999) / 1000, WR = 2, LATE = 16 * CLOCK_MHZ;
    reg [15:0]     memory [0:(4 << (COLUMNS + ROWS)) - 1];
    reg [3:0]      opened;
    reg [ROWS-1:0] row [0:3];
    reg [15:0]     first, second;
    integer        now, activated [0:3], precharged, refreshed, written, refreshes, bank;
    reg            ready;
    wire [COLUMNS+ROWS+1:0] at = {row[i_bank], i_bank, i_address[COLUMNS-1:0]};
    initial begin
        {now, precharged, refreshed, written, refreshes} = 0;
        for (bank = 0; bank < 4; bank = bank + 1) activated[bank] = 0;
        {opened, ready, o_wrong} = 6'd0;
    end

    task refuse(input [8*24-1:0] what);
        begin
            if (!o_wrong) $display("SDRAM: %0s in cycle %0d", what, now);
            o_wrong <= 1'b1;
        end
    endtask

    always @(posedge i_clk) begin
        now    <= now + 1;
        second <= first;
        o_dq   <= second;
        if (ready && now - refreshed > LATE) refuse("refresh is late");
        case (i_command)
            3'b011: begin
                if (!ready || opened[i_bank]) refuse("ACTIVATE of an open row");
                if (now - precharged < RP || now - refreshed < RFC) refuse("ACTIVATE too soon");
                opened[i_bank]    <= 1'b1;
                row[i_bank]       <= i_address[ROWS-1:0];
                activated[i_bank] <= now;
            end
            3'b101, 3'b100: begin
                if (!opened[i_bank]) refuse("column of a closed row");
                if (now - activated[i_bank] < RCD) refuse("column too soon");
                if (i_command == 3'b101) first <= memory[at];
                if (i_command == 3'b101 && (i_drive || i_mask != 2'b00)) refuse("READ while driven");
                if (i_command == 3'b100) begin
                    if (!i_drive) refuse("WRITE without data");
                    if (!i_mask[0]) memory[at][7:0] <= i_dq[7:0];
                    if (!i_mask[1]) memory[at][15:8] <= i_dq[15:8];
                    written <= now;
                end
            end
            3'b010: begin
                for (bank = 0; bank < 4; bank = bank + 1)
                    if (opened[bank] && now - activated[bank] < RAS) refuse("PRECHARGE too soon");
                if (opened != 4'd0 && now - written < WR) refuse("PRECHARGE after WRITE");
                if (i_address[10]) opened <= 4'd0;
                else opened[i_bank] <= 1'b0;
                precharged <= now;
            end
            3'b001: begin
                if (opened != 4'd0) refuse("REFRESH of an open row");
                if (now - precharged < RP || (refreshes != 0 && now - refreshed < RFC)) refuse("REFRESH too soon");
                refreshed <= now;
                refreshes <= refreshes + 1;
            end
            3'b000: begin
                if (refreshes < 2 || now - refreshed < RFC) refuse("mode before refreshes");
                if (i_address != 13'h030) refuse("another mode");
                ready <= 1'b1;
            end
            default: ;
        endcase
    end
endmodule
`default_nettype wire
