// Where a chunk of V results goes. Column n of token t is element (n/L)*T*L + t*L + n%L of its region: bit fields side by side.
`default_nettype none
module vector_place #(
    parameter LANES        = 8,
    parameter PORTS        = 4,
    parameter TOKENS       = 2,
    parameter VECTOR_LANES = 2,
    parameter BEAT_BYTES   = 8,
    parameter OBUF_BEATS   = 512,
    parameter UBUF_LINES   = 64,
    parameter OADDR        = $clog2(OBUF_BEATS),
    parameter UADDR        = $clog2(UBUF_LINES),
    parameter LLANE        = $clog2(LANES),
    parameter LOGB         = $clog2(BEAT_BYTES)
) (
    input  wire [15:0]       i_column,
    input  wire [3:0]        i_chunk,
    input  wire [2:0]        i_token,
    input  wire [15:0]       i_base,
    input  wire [1:0]        i_size,
    output wire [OADDR-1:0]  o_beat,
    output wire [LOGB-1:0]   o_byte,
    output wire [UADDR-1:0]  o_line,
    output wire [LLANE-1:0]  o_lane,
    output wire              o_outside_obuf,
    output wire              o_outside_ubuf
);
    localparam LOGP = $clog2(PORTS), LOGV = $clog2(VECTOR_LANES), LOGT = $clog2(TOKENS);
    localparam [31:0] O = OBUF_BEATS[31:0], U = UBUF_LINES[31:0];
    wire [31:0] n       = ({16'd0, i_column} << LOGP) + ({28'd0, i_chunk} << LOGV);
    wire [31:0] block   = n >> LLANE;
    wire [31:0] element = (block << (LLANE + LOGT)) + ({29'd0, i_token} << LLANE) + {{(32-LLANE){1'b0}}, o_lane};
    wire [31:0] bytes   = element << i_size;
    wire [31:0] beat    = {16'd0, i_base} + (bytes >> LOGB);
    wire [31:0] chunk   = VECTOR_LANES << i_size >> LOGB;  // beats, 0 or 1 if the chunk is within one
    wire [31:0] last    = chunk > 32'd1 ? beat + chunk - 32'd1 : beat;
    wire [31:0] line    = {17'd0, i_base[14:0]} + block;
    assign o_lane = n[LLANE-1:0];
    assign o_beat = beat[OADDR-1:0];
    assign o_byte = bytes[LOGB-1:0];
    assign o_line = line[UADDR-1:0];
    assign o_outside_obuf = last >= O;
    assign o_outside_ubuf = line >= U;
endmodule
`default_nettype wire
