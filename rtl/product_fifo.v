// A lane's finished groups. A place is taken when a group is first issued and given back by its pop: i_reserve, i_pop.
// o_credit: places are free at the start of the cycle; o_some: a group can be popped.
`default_nettype none
module product_fifo #(
    parameter WIDTH = 128,
    parameter DEPTH = 8
) (
    input  wire             i_clk,
    input  wire             i_rst,
    input  wire             i_reserve,
    output reg              o_credit,
    input  wire             i_push,
    input  wire [WIDTH-1:0] i_data,
    output reg              o_some,
    input  wire             i_pop,
    output wire [WIDTH-1:0] o_data
);
    localparam ADDR = $clog2(DEPTH);
    localparam [6:0] PLACES = DEPTH[6:0];
    reg  [ADDR-1:0] head, tail;
    reg  [6:0]      used, filled;
    ram_lut #(.WIDTH(WIDTH), .DEPTH(1 << ADDR)) u_ram (
        .i_clk(i_clk), .i_write(i_push), .i_write_address(tail), .i_write_data(i_data),
        .i_read_address(head), .o_read_data(o_data));
    always @(posedge i_clk)
        if (i_rst) begin
            head   <= {ADDR{1'b0}};
            tail   <= {ADDR{1'b0}};
            used   <= 7'd0;
            filled <= 7'd0;
            {o_some, o_credit} <= 2'b01;
        end else begin
            if (i_pop) head <= head + 1'b1;
            if (i_push) tail <= tail + 1'b1;
            used   <= used + {6'd0, i_reserve} - {6'd0, i_pop};
            filled <= filled + {6'd0, i_push} - {6'd0, i_pop};
            if (i_reserve != i_pop) o_credit <= i_pop || used < PLACES - 7'd1;
            o_some <= i_push || (i_pop ? filled > 7'd1 : o_some);
        end
endmodule
`default_nettype wire
