// OBUF: read in beats of BEAT bytes, written in OUT bytes from any beat on, OUT/BEAT beats (a power of two) of which i_write names
// bytes. Neighbouring beats lie in different banks.
`default_nettype none
module result_ram #(
    parameter BEAT  = 8,
    parameter OUT   = 8,
    parameter BEATS = 64,
    parameter ADDR  = $clog2(BEATS)
) (
    input  wire              i_clk,
    input  wire [OUT-1:0]    i_write,
    input  wire [ADDR-1:0]   i_write_beat,
    input  wire [8*OUT-1:0]  i_write_data,
    input  wire              i_read,
    input  wire [ADDR-1:0]   i_read_beat,
    output wire [8*BEAT-1:0] o_read_data
);
    localparam BANKS = OUT / BEAT, BITS = $clog2(BANKS);
    genvar g;
    generate
        if (BANKS == 1) begin : g_one
            ram_bytes #(.BYTES(BEAT), .DEPTH(BEATS)) u_ram (
                .i_clk(i_clk), .i_write(i_write), .i_write_address(i_write_beat), .i_write_data(i_write_data), .i_read(i_read),
                .i_read_address(i_read_beat), .o_read_data(o_read_data));
        end else begin : g_banks
            wire [8*OUT-1:0] banks;
            reg  [BITS-1:0]  bank;
            initial bank = {BITS{1'b0}};
            always @(posedge i_clk) if (i_read) bank <= i_read_beat[BITS-1:0];
            assign o_read_data = banks[8*BEAT*bank +: 8*BEAT];
            for (g = 0; g < BANKS; g = g + 1) begin : g_bank
                wire [BITS-1:0] ahead = g[BITS-1:0] - i_write_beat[BITS-1:0];
                wire [ADDR-1:0] beat  = i_write_beat + {{(ADDR-BITS){1'b0}}, ahead};
                wire            unused_beat = &{1'b0, beat[BITS-1:0]};
                ram_bytes #(.BYTES(BEAT), .DEPTH(BEATS / BANKS)) u_ram (
                    .i_clk(i_clk), .i_write(i_write[BEAT*ahead +: BEAT]), .i_write_address(beat[ADDR-1:BITS]),
                    .i_write_data(i_write_data[8*BEAT*ahead +: 8*BEAT]), .i_read(i_read),
                    .i_read_address(i_read_beat[ADDR-1:BITS]), .o_read_data(banks[8*BEAT*g +: 8*BEAT]));
            end
        end
    endgenerate
endmodule
`default_nettype wire
