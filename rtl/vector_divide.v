// One row of VROW: (2^62 - 1) / n, cut, where n is loaded or floor(sqrt(radicand)), 2^31 at least. Behind i_load 16 steps are the
// root's, if i_rooted, and the next 16 the quotient's. Two bits a cycle, and the root's place is the divisor's.
`default_nettype none
module vector_divide (
    input  wire        i_clk,
    input  wire        i_load,
    input  wire        i_rooted,
    input  wire [31:0] i_divisor,
    input  wire [63:0] i_radicand,
    output wire [31:0] o_quotient
);
    localparam [33:0] DIVIDEND = {4'd0, {30{1'b1}}};  // the upper bits; each bit of the quotient appends a 1
    reg  [31:0] n;
    reg  [63:0] bits;  // what is left of the radicand, then the quotient
    reg  [33:0] rest;
    reg  [4:0]  age;
    wire        root = i_rooted && !age[4], root_last = root && age[3:0] == 4'd15;
    wire [33:0] next  = root ? {rest[31:0], bits[63:62]} : {rest[32:0], 1'b1};
    wire [33:0] trial = root ? {n, 2'b01} : {2'b00, n};
    wire        found = next >= trial;
    wire [33:0] left  = found ? next - trial : next;
    wire [33:0] next2  = root ? {left[31:0], bits[61:60]} : {left[32:0], 1'b1};
    wire [33:0] trial2 = root ? {n[30:0], found, 2'b01} : {2'b00, n};
    wire        found2 = next2 >= trial2;
    wire        unused_rest = &{1'b0, rest[33], left[33]};
    assign o_quotient = bits[31:0];
    always @(posedge i_clk) begin
        age <= i_load ? 5'd0 : age[4] ? age : age + 5'd1;
        if (i_load ? !i_rooted : root_last) rest <= DIVIDEND;
        else if (i_load) rest <= 34'd0;
        else rest <= found2 ? next2 - trial2 : next2;
        if (i_load) n <= i_rooted ? 32'd0 : i_divisor;
        else if (root) n <= {n[29:0], found, found2};
        if (i_load) bits <= i_radicand;
        else bits <= root ? bits << 4 : {bits[61:0], found, found2};
    end
endmodule
`default_nettype wire
