// One lane's activations: for each token an element of BITS bits a line, written and read separately.
`default_nettype none
module activation_bank #(
    parameter TOKENS = 2,
    parameter BITS   = 8,
    parameter LINES  = 512,
    parameter ADDR   = $clog2(LINES)
) (
    input  wire                   i_clk,
    input  wire [TOKENS-1:0]      i_write,
    input  wire [ADDR-1:0]        i_write_line,
    input  wire [TOKENS*BITS-1:0] i_write_data,
    input  wire                   i_read,
    input  wire [ADDR-1:0]        i_read_line,
    output wire [TOKENS*BITS-1:0] o_read_data
);
    genvar t;
    generate
        for (t = 0; t < TOKENS; t = t + 1) begin : g_token
            ram_sync #(.WIDTH(BITS), .DEPTH(LINES)) u_ram (
                .i_clk(i_clk), .i_write(i_write[t]), .i_write_address(i_write_line), .i_write_data(i_write_data[BITS*t +: BITS]),
                .i_read(i_read), .i_read_address(i_read_line), .o_read_data(o_read_data[BITS*t +: BITS]));
        end
    endgenerate
endmodule
`default_nettype wire
