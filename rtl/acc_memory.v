// Words of FIELDS accumulators a token, each token with its own write enable; COPIES read ports with one cycle of latency.
`default_nettype none
module acc_memory #(
    parameter TOKENS = 2,
    parameter WIDTH  = 128,
    parameter WORDS  = 1024,
    parameter COPIES = 2,
    parameter ADDR   = $clog2(WORDS)
) (
    input  wire                           i_clk,
    input  wire [TOKENS-1:0]              i_write,
    input  wire [ADDR-1:0]                i_write_word,
    input  wire [TOKENS*WIDTH-1:0]        i_write_data,
    input  wire [COPIES*ADDR-1:0]         i_read_word,
    output wire [COPIES*TOKENS*WIDTH-1:0] o_read_data
);
    genvar c, t;
    generate
        for (c = 0; c < COPIES; c = c + 1) begin : g_copy
            for (t = 0; t < TOKENS; t = t + 1) begin : g_token
                ram_sync #(.WIDTH(WIDTH), .DEPTH(WORDS)) u_ram (
                    .i_clk(i_clk), .i_write(i_write[t]), .i_write_address(i_write_word),
                    .i_write_data(i_write_data[WIDTH*t +: WIDTH]), .i_read(1'b1), .i_read_address(i_read_word[ADDR*c +: ADDR]),
                    .o_read_data(o_read_data[WIDTH*(c*TOKENS+t) +: WIDTH]));
            end
        end
    endgenerate
endmodule
`default_nettype wire
