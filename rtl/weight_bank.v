// One lane's weight memory: words of PORTS bytes, of which a beat writes min(PORTS, BEAT_BYTES).
// Byte i of the bank's word is byte LANE*PORTS + i of the line. A key beat (i_key: write, column, part of the lanes, line)
// gives each of BEAT_BYTES lanes one byte: the column's byte of its word.
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
    input  wire [23:0]             i_key,
    input  wire [16:0]             i_write_beat,
    input  wire [8*BEAT_BYTES-1:0] i_write_data,
    input  wire                    i_read,
    input  wire [ADDR-1:0]         i_read_line,
    output wire [8*PORTS-1:0]      o_read_data
);
    localparam UNIT  = PORTS < BEAT_BYTES ? PORTS : BEAT_BYTES;
    localparam BEATS = LANES * PORTS / BEAT_BYTES;
    localparam LOGN  = $clog2(BEATS);
    localparam integer OWN_VALUE = LANE / BEAT_BYTES;
    localparam [3:0] OWN = OWN_VALUE[3:0];
    wire [16:0] line = i_write_beat >> LOGN;
    wire [16:0] part = i_write_beat - (line << LOGN);
    wire        key  = i_key[23] && i_key[18:15] == OWN;
    wire [7:0]  code = i_write_data[8*(LANE % BEAT_BYTES) +: 8];
    wire [ADDR-1:0] at = key ? i_key[ADDR-1:0] : line[ADDR-1:0];
    wire        unused_bits = &{1'b0, line, i_key, i_write_data};
    genvar u, b;
    generate
        for (u = 0; u < PORTS / UNIT; u = u + 1) begin : g_unit
            localparam integer BYTE = LANE * PORTS + u * UNIT;
            localparam integer BEAT = BYTE / BEAT_BYTES;
            localparam [16:0] PART = BEAT[16:0];
            wire [UNIT-1:0] write;
            for (b = 0; b < UNIT; b = b + 1) begin : g_byte
                localparam integer COLUMN_VALUE = u * UNIT + b;
                localparam [3:0] COLUMN = COLUMN_VALUE[3:0];
                assign write[b] = key ? i_key[22:19] == COLUMN : i_write && part == PART;
            end
            ram_bytes #(.BYTES(UNIT), .DEPTH(LINES)) u_ram (
                .i_clk(i_clk), .i_write(write), .i_write_address(at),
                .i_write_data(key ? {UNIT{code}} : i_write_data[8*(BYTE % BEAT_BYTES) +: 8*UNIT]),
                .i_read(i_read), .i_read_address(i_read_line), .o_read_data(o_read_data[8*UNIT*u +: 8*UNIT]));
        end
    endgenerate
endmodule
`default_nettype wire
