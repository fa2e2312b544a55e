// Serial sender, 8 data bits, no parity, one stop bit; DIVIDER cycles a bit. A byte is taken when i_valid and o_ready are high.
`default_nettype none
module uart_tx #(
    parameter DIVIDER = 20
) (
    input  wire       i_clk,
    input  wire       i_rst,
    input  wire       i_valid,
    output wire       o_ready,
    input  wire [7:0] i_data,
    output wire       o_tx
);
    localparam BITS = $clog2(DIVIDER);
    localparam integer LAST_VALUE = DIVIDER - 1;
    localparam [BITS-1:0] LAST = LAST_VALUE[BITS-1:0];
    reg  [BITS-1:0] wait_cycles;
    reg  [3:0]      bits;
    reg  [8:0]      data;
    initial data = 9'h1FF;
    assign o_ready = bits == 4'd0;
    assign o_tx    = data[0];

    always @(posedge i_clk) begin
        if (i_rst) begin
            bits        <= 4'd0;
            data        <= 9'h1FF;
            wait_cycles <= {BITS{1'b0}};
        end else if (o_ready) begin
            if (i_valid) begin
                data        <= {i_data, 1'b0};
                bits        <= 4'd10;
                wait_cycles <= LAST;
            end
        end else if (wait_cycles != {BITS{1'b0}}) begin
            wait_cycles <= wait_cycles - 1'b1;
        end else begin
            wait_cycles <= LAST;
            data        <= {1'b1, data[8:1]};
            bits        <= bits - 4'd1;
        end
    end
endmodule
`default_nettype wire
