// V results to the bytes of a beat, or of the beats from it on that they fill: 1, 2 or 4 bytes an element (i_size = log2), with
// byte enables. Tiled: bytes i_byte .. of every PORTS bytes of the beat.
`default_nettype none
module vector_output #(
    parameter PORTS        = 4,
    parameter VECTOR_LANES = 2,
    parameter BEAT_BYTES   = 8,
    parameter LOGB         = $clog2(BEAT_BYTES),
    parameter OUT_BYTES    = 4 * VECTOR_LANES > BEAT_BYTES ? 4 * VECTOR_LANES : BEAT_BYTES
) (
    input  wire                       i_valid,
    input  wire                       i_tiled,
    input  wire [1:0]                 i_size,
    input  wire [LOGB-1:0]            i_byte,
    input  wire [32*VECTOR_LANES-1:0] i_results,
    output wire [OUT_BYTES-1:0]       o_write,
    output wire [8*OUT_BYTES-1:0]     o_data
);
    localparam LOGV = $clog2(VECTOR_LANES);
    wire [7:0] at = {{(8-LOGB){1'b0}}, i_byte};
    genvar i;
    generate
        for (i = 0; i < OUT_BYTES; i = i + 1) begin : g_byte
            localparam [7:0] HERE = i[7:0];
            localparam integer INSIDE_VALUE = i % PORTS;
            localparam [7:0] INSIDE = INSIDE_VALUE[7:0];
            localparam integer ONE = i % VECTOR_LANES, TWO = (i / 2) % VECTOR_LANES, FOUR = (i / 4) % VECTOR_LANES;
            assign o_write[i] = i_valid && (i_tiled ? i < BEAT_BYTES && at >> LOGV == INSIDE >> LOGV
                                          : i_size == 2'd0 ? at >> LOGV == HERE >> LOGV
                                          : i_size == 2'd1 ? at >> (LOGV + 1) == HERE >> (LOGV + 1)
                                          : at >> (LOGV + 2) == HERE >> (LOGV + 2));
            assign o_data[8*i +: 8] = i_size == 2'd0 ? i_results[32*ONE +: 8]
                                    : i_size == 2'd1 ? i_results[32*TWO + 8*(i % 2) +: 8]
                                    : i_results[32*FOUR + 8*(i % 4) +: 8];
        end
    endgenerate
endmodule
`default_nettype wire
