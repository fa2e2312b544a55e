// Classification of a group: in each issue cycle every bank (index mod MULTIPLIERS) picks its lowest-position code whose
// entry is needed and not valid, and makes it valid; the group leaves when nothing remains. i_clear empties the tags first.
// What a group needs is looked up as it is loaded (i_load, i_next_*), so that issue decides by registers alone.
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
    input  wire                     i_clear,
    output wire                     o_first,
    output wire                     o_more,
    output wire                     o_leave,
    output wire [MULTIPLIERS-1:0]   o_pick,
    output wire [8*MULTIPLIERS-1:0] o_pick_index
);
    localparam LOGI = $clog2(INDEX_ENTRIES);
    localparam integer BANKS_VALUE = MULTIPLIERS - 1;
    localparam [7:0] BANKS = BANKS_VALUE[7:0];
    reg                      started;
    reg  [INDEX_ENTRIES-1:0] tags, tags_next;
    reg  [PORTS-1:0]         need, need_next, picked, left;
    reg  [PORTS*PORTS-1:0]   same;  // same[PORTS*p + q]: codes p and q of the group have one entry
    wire                     clearing = i_valid && !started && i_clear;
    wire [INDEX_ENTRIES-1:0] held  = clearing ? {INDEX_ENTRIES{1'b0}} : tags;
    wire                     issue = i_valid && (started || i_credit);
    reg  [8*MULTIPLIERS-1:0] chosen;
    reg  [MULTIPLIERS-1:0]   pick;
    reg                      seen;
    integer p, q, m;
    always @* begin
        picked = need;  // the first needed code of each bank
        for (p = 1; p < PORTS; p = p + 1)
            for (q = 0; q < p; q = q + 1)
                if (need[q] && ((i_index[8*p +: 8] ^ i_index[8*q +: 8]) & BANKS) == 8'd0) picked[p] = 1'b0;
        left = need;
        for (p = 0; p < PORTS; p = p + 1)
            for (q = 0; q < PORTS; q = q + 1)
                if (picked[q] && same[PORTS*p + q]) left[p] = 1'b0;
        pick   = {MULTIPLIERS{1'b0}};
        chosen = {8*MULTIPLIERS{1'b0}};
        for (m = 0; m < MULTIPLIERS; m = m + 1)
            for (p = 0; p < PORTS; p = p + 1)
                if (picked[p] && (i_index[8*p +: 8] & BANKS) == m[7:0]) begin
                    pick[m]          = 1'b1;
                    chosen[8*m +: 8] = chosen[8*m +: 8] | i_index[8*p +: 8];
                end
        tags_next = held;
        for (m = 0; m < MULTIPLIERS; m = m + 1)
            if (pick[m]) tags_next[chosen[8*m +: LOGI]] = 1'b1;
        seen = 1'b0;
        for (p = 0; p < PORTS; p = p + 1) begin
            seen = !clearing && tags[i_next_index[8*p +: LOGI]];
            for (q = 0; q < PORTS; q = q + 1)
                if (issue && picked[q] && i_next_index[8*p +: 8] == i_index[8*q +: 8]) seen = 1'b1;
            need_next[p] = !i_next_zero[p] && (i_next_clear || !seen);
        end
    end
    assign o_first      = issue && !started;
    assign o_more       = issue && started;
    assign o_leave      = issue && left == {PORTS{1'b0}};
    assign o_pick       = issue ? pick : {MULTIPLIERS{1'b0}};
    assign o_pick_index = chosen;
    always @(posedge i_clk) begin
        if (issue) tags <= tags_next;
        if (i_load) begin
            need <= need_next;
            for (p = 0; p < PORTS; p = p + 1)
                for (q = 0; q < PORTS; q = q + 1)
                    same[PORTS*p + q] <= i_next_index[8*p +: 8] == i_next_index[8*q +: 8];
        end else if (issue) need <= left;
        if (i_rst) started <= 1'b0;
        else if (issue) started <= !o_leave;
    end
endmodule
`default_nettype wire
