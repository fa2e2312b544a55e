// Stages 0 to 4: the first read's and the second read's words come one and two cycles after their addresses; both are held
// side by side for the group's chunks, which are cut out at stage 3 and registered (stage 4).
`default_nettype none
module vector_operands #(
    parameter PORTS        = 4,
    parameter TOKENS       = 2,
    parameter VECTOR_LANES = 2,
    parameter BITS         = 32
) (
    input  wire                           i_clk,
    input  wire                           i_first,
    input  wire [2:0]                     i_token,
    input  wire [3:0]                     i_chunk,
    input  wire                           i_adapter,
    input  wire [TOKENS*PORTS*BITS-1:0]   i_acc,
    input  wire [64*PORTS-1:0]            i_records,
    output reg  [VECTOR_LANES*BITS-1:0]   o_acc1,
    output reg  [VECTOR_LANES*BITS-1:0]   o_acc2,
    output reg  [64*VECTOR_LANES-1:0]     o_record,
    output reg  [6*VECTOR_LANES-1:0]      o_shift
);
    localparam WORD = PORTS * BITS;
    wire       first1, first2, adapter3;
    wire [2:0] token1, token2;
    wire [3:0] chunk3;
    delay #(.WIDTH(4), .STAGES(1)) u_one (.i_clk(i_clk), .i_data({i_first, i_token}), .o_data({first1, token1}));
    delay #(.WIDTH(4), .STAGES(1)) u_two (.i_clk(i_clk), .i_data({first1, token1}), .o_data({first2, token2}));
    delay #(.WIDTH(5), .STAGES(3)) u_three (.i_clk(i_clk), .i_data({i_adapter, i_chunk}), .o_data({adapter3, chunk3}));
    reg  [WORD-1:0]     acc_a, acc_a3, acc_b3;
    reg  [64*PORTS-1:0] rec_a, rec_a3, rec_b3;
    wire [2:0]      token = first1 ? token1 : token2;
    wire [WORD-1:0] acc   = i_acc[WORD*token +: WORD];
    wire [WORD-1:0] acc2  = i_acc[WORD*token2 +: WORD];
    integer v;
    always @(posedge i_clk) begin
        if (first1) begin
            acc_a <= acc;
            rec_a <= i_records;
        end
        if (first2) begin
            acc_a3 <= acc_a;
            rec_a3 <= rec_a;
            acc_b3 <= acc2;
            rec_b3 <= i_records;
        end
        o_acc1 <= acc_a3[VECTOR_LANES*BITS*chunk3 +: VECTOR_LANES*BITS];
        o_acc2 <= acc_b3[VECTOR_LANES*BITS*chunk3 +: VECTOR_LANES*BITS];
        o_record <= adapter3 ? rec_b3[64*VECTOR_LANES*chunk3 +: 64*VECTOR_LANES]
                             : rec_a3[64*VECTOR_LANES*chunk3 +: 64*VECTOR_LANES];
        for (v = 0; v < VECTOR_LANES; v = v + 1)
            o_shift[6*v +: 6] <= rec_a3[64*(VECTOR_LANES*chunk3 + v) + 48 +: 6];
    end
endmodule
`default_nettype wire
