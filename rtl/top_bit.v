// The place of the highest bit that is set, by halves; 0 for zero.
`default_nettype none
module top_bit (
    input  wire [31:0] i_value,
    output wire [4:0]  o_at
);
    wire [15:0] half    = o_at[4] ? i_value[31:16] : i_value[15:0];
    wire [7:0]  quarter = o_at[3] ? half[15:8] : half[7:0];
    wire [3:0]  nibble  = o_at[2] ? quarter[7:4] : quarter[3:0];
    wire        unused_lowest = &{1'b0, nibble[0]};
    assign o_at = {i_value[31:16] != 16'd0, half[15:8] != 8'd0, quarter[7:4] != 4'd0, nibble[3:2] != 2'd0,
                   nibble[3] || (nibble[1] && !nibble[2])};
endmodule
`default_nettype wire
