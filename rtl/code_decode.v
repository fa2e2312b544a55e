// A stored code to {index, negative, zero}. Signed: index = |code| mod 128, so -128 takes entry 0, which zero never needs.
// Codebook: the index, never zero. o_value: the code in 8 bits, of a codebook the index.
`default_nettype none
`include "axlora_isa.vh"
module code_decode (
    input  wire [7:0] i_raw,
    input  wire [3:0] i_format,
    output wire [7:0] o_index,
    output wire       o_negative,
    output wire       o_zero,
    output wire [7:0] o_value
);
    reg [7:0] value;
    always @*
        case (i_format)
            `AXL_FORMAT_S2: value = {{6{i_raw[1]}}, i_raw[1:0]};
            `AXL_FORMAT_S3: value = {{5{i_raw[2]}}, i_raw[2:0]};
            `AXL_FORMAT_S4: value = {{4{i_raw[3]}}, i_raw[3:0]};
            `AXL_FORMAT_U2: value = {6'd0, i_raw[1:0]};
            `AXL_FORMAT_U3: value = {5'd0, i_raw[2:0]};
            `AXL_FORMAT_U4, `AXL_FORMAT_CB4: value = {4'd0, i_raw[3:0]};
            default: value = i_raw;
        endcase
    assign     o_value = value;
    wire       is_signed = i_format < `AXL_FORMAT_U2;
    wire [6:0] magnitude = value[7] ? 7'd0 - value[6:0] : value[6:0];
    assign o_negative = is_signed && value[7];
    assign o_zero     = value == 8'd0 && i_format != `AXL_FORMAT_CB4;
    assign o_index    = is_signed ? {1'b0, magnitude} : value;
endmodule
`default_nettype wire
