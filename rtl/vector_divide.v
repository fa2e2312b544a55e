// One row of VROW: (2^62 - 1) / n, cut, where n is loaded or floor(sqrt(radicand)). After i_load i_root says which steps are the
// root's (none or 32); the 31 behind them are the quotient's. A bit a cycle, and the root's place is the divisor's.
`default_nettype none
module vector_divide (
    input  wire        i_clk,
    input  wire        i_load,
    input  wire        i_rooted,
    input  wire        i_root,
    input  wire        i_root_last,
    input  wire [31:0] i_divisor,
    input  wire [63:0] i_radicand,
    output wire [31:0] o_quotient
);
    localparam [33:0] DIVIDEND = {3'd0, {31{1'b1}}};  // the upper half; each step of division appends a 1
    reg  [31:0] n;
    reg  [63:0] bits;  // what is left of the radicand, then the quotient
    reg  [33:0] rest;
    wire [33:0] next  = i_root ? {rest[31:0], bits[63:62]} : {rest[32:0], 1'b1};
    wire [33:0] trial = i_root ? {n, 2'b01} : {2'b00, n};
    wire        found = next >= trial;
    wire        unused_rest = &{1'b0, rest[33]};
    assign o_quotient = {1'b0, bits[30:0]};
    always @(posedge i_clk) begin
        if (i_load ? !i_rooted : i_root_last) rest <= DIVIDEND;
        else if (i_load) rest <= 34'd0;
        else rest <= found ? next - trial : next;
        if (i_load) n <= i_rooted ? 32'd0 : i_divisor;
        else if (i_root) n <= {n[30:0], found};
        if (i_load) bits <= i_radicand;
        else bits <= i_root ? bits << 2 : {bits[62:0], found};
    end
endmodule
`default_nettype wire
