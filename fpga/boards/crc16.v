// CRC-16 with polynomial 0x1021, initial value 0xFFFF, most significant bit first: o_next is i_crc after one byte.
`default_nettype none
module crc16 (
    input  wire [15:0] i_crc,
    input  wire [7:0]  i_data,
    output wire [15:0] o_next
);
    // x = high byte ^ data, x ^= x >> 4; the polynomial's three terms are then shifts of x.
    wire [7:0] mixed = i_crc[15:8] ^ i_data;
    wire [7:0] x = mixed ^ {4'd0, mixed[7:4]};
    assign o_next = {i_crc[7:0], 8'd0} ^ {x[3:0], 12'd0} ^ {3'd0, x, 5'd0} ^ {8'd0, x};
endmodule
`default_nettype wire
