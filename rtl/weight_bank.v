// One lane's weight memory: words of PORTS bytes, of which a beat writes min(PORTS, BEAT_BYTES).
// Byte i of the bank's word is byte LANE*PORTS + i of the line.
`default_nettype none
module weight_bank #(
    parameter LANE       = 0,
    parameter LANES      = 8,
    parameter PORTS      = 4,
    parameter BEAT_BYTES = 8,
    parameter LINES      = 4096,
    parameter ADDR       = $clog2(LINES)
) (
    input  wire                    i_clk,
    input  wire                    i_write,
    input  wire [16:0]             i_write_beat,
    input  wire [8*BEAT_BYTES-1:0] i_write_data,
    input  wire                    i_read,
    input  wire [ADDR-1:0]         i_read_line,
    output wire [8*PORTS-1:0]      o_read_data
);
    localparam UNIT  = PORTS < BEAT_BYTES ? PORTS : BEAT_BYTES;
    localparam BEATS = LANES * PORTS / BEAT_BYTES;
    localparam LOGN  = $clog2(BEATS);
    wire [16:0] line = i_write_beat >> LOGN;
    wire [16:0] part = i_write_beat - (line << LOGN);
    wire        unused_bits = &{1'b0, line, i_write_data};
    genvar u;
    generate
        for (u = 0; u < PORTS / UNIT; u = u + 1) begin : g_unit
            localparam integer BYTE = LANE * PORTS + u * UNIT;
            localparam integer BEAT = BYTE / BEAT_BYTES;
            localparam [16:0] PART = BEAT[16:0];
            ram_sync #(.WIDTH(8*UNIT), .DEPTH(LINES)) u_ram (
                .i_clk(i_clk), .i_write(i_write && part == PART), .i_write_address(line[ADDR-1:0]),
                .i_write_data(i_write_data[8*(BYTE % BEAT_BYTES) +: 8*UNIT]),
                .i_read(i_read), .i_read_address(i_read_line), .o_read_data(o_read_data[8*UNIT*u +: 8*UNIT]));
        end
    endgenerate
endmodule
`default_nettype wire
