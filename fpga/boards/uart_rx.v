// Serial receiver, 8 data bits, no parity, one stop bit; DIVIDER cycles a bit, at least 4. A byte without a stop bit is dropped.
`default_nettype none
module uart_rx #(
    parameter DIVIDER = 20
) (
    input  wire       i_clk,
    input  wire       i_rst,
    input  wire       i_rx,
    output reg        o_valid,
    output reg  [7:0] o_data
);
    localparam BITS = $clog2(DIVIDER);
    localparam integer LAST_VALUE = DIVIDER - 1, HALF_VALUE = DIVIDER / 2;
    localparam [BITS-1:0] LAST = LAST_VALUE[BITS-1:0], HALF = HALF_VALUE[BITS-1:0];
    reg  [2:0]      line;   // two stages against metastability, one to see an edge
    reg  [BITS-1:0] wait_cycles;
    reg  [3:0]      bits;   // 0 idle, 1 start bit, 2..9 data, 10 stop bit
    reg  [7:0]      data;
    wire            sample = wait_cycles == {BITS{1'b0}};
    initial line = 3'b111;

    always @(posedge i_clk) begin
        line    <= {line[1:0], i_rx};
        o_valid <= 1'b0;
        o_data  <= data;
        if (i_rst) begin
            bits        <= 4'd0;
            wait_cycles <= {BITS{1'b0}};
        end else if (bits == 4'd0) begin
            if (line[2] && !line[1]) begin
                bits        <= 4'd1;
                wait_cycles <= HALF;
            end
        end else if (!sample) begin
            wait_cycles <= wait_cycles - 1'b1;
        end else begin
            wait_cycles <= LAST;
            bits        <= bits + 4'd1;
            if (bits == 4'd1 && line[1]) bits <= 4'd0;  // a glitch, no start bit
            if (bits >= 4'd2 && bits <= 4'd9) data <= {line[1], data[7:1]};
            if (bits == 4'd10) begin
                o_valid <= line[1];
                bits    <= 4'd0;
            end
        end
    end
endmodule
`default_nettype wire
