// What reuse_issue does, said of one cycle: in each issue cycle every bank (index mod MULTIPLIERS) picks its lowest-position code
// whose entry is needed and not valid, looked up in that cycle, and makes it valid; the group leaves when nothing remains.
// i_clear empties the tags first. What is picked of a group that is not there (i_free) is any.
`default_nettype none
module issue_spec #(
    parameter PORTS         = 4,
    parameter MULTIPLIERS   = 1,
    parameter INDEX_ENTRIES = 256
) (
    input  wire                     i_clk,
    input  wire                     i_rst,
    input  wire                     i_valid,
    input  wire                     i_credit,
    input  wire [8*PORTS-1:0]       i_index,
    input  wire [PORTS-1:0]         i_zero,
    input  wire                     i_clear,
    input  wire [8*MULTIPLIERS-1:0] i_free,
    output wire                     o_first,
    output wire                     o_more,
    output wire                     o_leave,
    output wire [MULTIPLIERS-1:0]   o_pick,
    output wire [8*MULTIPLIERS-1:0] o_pick_index,
    output wire [PORTS-1:0]         o_need,
    output wire [INDEX_ENTRIES-1:0] o_tags,
    output wire                     o_started
);
    localparam LOGI = $clog2(INDEX_ENTRIES);
    localparam integer BANKS_VALUE = MULTIPLIERS - 1;
    localparam [7:0] BANKS = BANKS_VALUE[7:0];
    reg                      started;
    reg  [INDEX_ENTRIES-1:0] tags, tags_next;
    wire [INDEX_ENTRIES-1:0] held = !started && i_clear ? {INDEX_ENTRIES{1'b0}} : tags;
    wire                     issue = i_valid && (started || i_credit);
    reg  [MULTIPLIERS-1:0]   pick;
    reg  [8*MULTIPLIERS-1:0] chosen;
    reg  [PORTS-1:0]         need, left;
    reg  [7:0]               index;
    integer p, m;
    always @* begin
        index = 8'd0;
        for (p = 0; p < PORTS; p = p + 1)
            need[p] = !i_zero[p] && !held[i_index[8*p +: LOGI]];
        pick   = {MULTIPLIERS{1'b0}};
        chosen = {8*MULTIPLIERS{1'b0}};
        for (m = 0; m < MULTIPLIERS; m = m + 1)
            for (p = PORTS - 1; p >= 0; p = p - 1) begin
                index = i_index[8*p +: 8];
                if (need[p] && (index & BANKS) == m[7:0]) begin
                    pick[m]          = 1'b1;
                    chosen[8*m +: 8] = index;
                end
            end
        left = need;
        for (m = 0; m < MULTIPLIERS; m = m + 1)
            for (p = 0; p < PORTS; p = p + 1)
                if (pick[m] && chosen[8*m +: 8] == i_index[8*p +: 8]) left[p] = 1'b0;
        tags_next = held;
        for (m = 0; m < MULTIPLIERS; m = m + 1)
            if (pick[m]) tags_next[chosen[8*m +: LOGI]] = 1'b1;
    end
    assign o_first      = issue && !started;
    assign o_more       = issue && started;
    assign o_leave      = issue && left == {PORTS{1'b0}};
    assign o_pick       = issue ? pick : {MULTIPLIERS{1'b0}};
    assign o_pick_index = i_valid ? chosen : i_free;
    assign {o_need, o_tags, o_started} = {need, tags, started};
    always @(posedge i_clk) begin
        if (issue) tags <= tags_next;
        if (i_rst) started <= 1'b0;
        else if (issue) started <= !o_leave;
    end
endmodule
`default_nettype wire
