// What a multiplier sees for an index: the codebook's entry, or the magnitude; signed entry 0 stands for 128.
`default_nettype none
module code_factor (
    input  wire [7:0]   i_index,
    input  wire         i_codebook,
    input  wire         i_signed,
    input  wire [127:0] i_entries,
    output wire [8:0]   o_factor
);
    wire [7:0] entry = i_entries[8*i_index[3:0] +: 8];
    assign o_factor = i_codebook ? {entry[7], entry} : i_signed && i_index == 8'd0 ? 9'd128 : {1'b0, i_index};
endmodule
`default_nettype wire
