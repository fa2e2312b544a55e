// o = i, STAGES cycles later (STAGES >= 1); no reset.
`default_nettype none
module delay #(
    parameter WIDTH  = 1,
    parameter STAGES = 1
) (
    input  wire             i_clk,
    input  wire [WIDTH-1:0] i_data,
    output wire [WIDTH-1:0] o_data
);
    reg [WIDTH*STAGES-1:0] stages;
    initial stages = {WIDTH*STAGES{1'b0}};
    generate
        if (STAGES == 1) begin : g_one
            always @(posedge i_clk) stages <= i_data;
        end else begin : g_many
            always @(posedge i_clk) stages <= {stages[WIDTH*(STAGES-1)-1:0], i_data};
        end
    endgenerate
    assign o_data = stages[WIDTH*STAGES-1 -: WIDTH];
endmodule
`default_nettype wire
