// issue_spec in the place of reuse_issue: issue_check shows that they are the same.
`default_nettype none
module reuse_issue #(
    parameter PORTS         = 4,
    parameter MULTIPLIERS   = 1,
    parameter INDEX_ENTRIES = 256
) (
    input  wire                     i_clk,
    input  wire                     i_rst,
    input  wire                     i_load,
    input  wire [8*PORTS-1:0]       i_next_index,
    input  wire [PORTS-1:0]         i_next_zero,
    input  wire                     i_next_clear,
    input  wire                     i_valid,
    input  wire                     i_credit,
    input  wire [8*PORTS-1:0]       i_index,
    input  wire [PORTS-1:0]         i_zero,
    input  wire                     i_clear,
    output wire                     o_first,
    output wire                     o_more,
    output wire                     o_leave,
    output wire [MULTIPLIERS-1:0]   o_pick,
    output wire [8*MULTIPLIERS-1:0] o_pick_index,
    output wire [INDEX_ENTRIES-1:0] f_tags,
    output wire                     f_started
);
    (* anyseq *) reg [8*MULTIPLIERS-1:0] free;
    issue_spec #(.PORTS(PORTS), .MULTIPLIERS(MULTIPLIERS), .INDEX_ENTRIES(INDEX_ENTRIES)) u_spec (
        .i_clk(i_clk), .i_rst(i_rst), .i_valid(i_valid), .i_credit(i_credit), .i_index(i_index), .i_zero(i_zero),
        .i_clear(i_clear), .i_free(free), .o_first(o_first), .o_more(o_more), .o_leave(o_leave), .o_pick(o_pick),
        .o_pick_index(o_pick_index), .o_tags(f_tags), .o_started(f_started));
endmodule
`default_nettype wire
