// reuse_issue behind lane.v's issue register (i_next_*: the group before it, any in any cycle) does what issue_spec does, though it
// looks up what a group needs as the group is loaded. The rule that lane_front keeps: the first group after a reset has clear.
`default_nettype none
module issue_check #(
    parameter PORTS         = 4,
    parameter MULTIPLIERS   = 2,
    parameter INDEX_ENTRIES = 256
) (
    input wire                     i_clk,
    input wire                     i_rst,
    input wire                     i_credit,
    input wire                     i_next_valid,
    input wire [8*PORTS-1:0]       i_next_index,
    input wire [PORTS-1:0]         i_next_zero,
    input wire                     i_next_clear,
    input wire [8*MULTIPLIERS-1:0] i_free
);
    reg               valid, clear, fresh, past;
    reg [8*PORTS-1:0] index;
    reg [PORTS-1:0]   zero;
    wire              first, more, leave, started, spec_first, spec_more, spec_leave, spec_started;
    wire [MULTIPLIERS-1:0]   pick, spec_pick;
    wire [8*MULTIPLIERS-1:0] pick_index, spec_index;
    wire [INDEX_ENTRIES-1:0] tags, spec_tags;
    wire [PORTS-1:0]         need, spec_need;
    wire [PORTS*PORTS-1:0]   same, equal;
    wire                     load = !valid || leave;
    initial {past, fresh} = 2'b01;
    always @(posedge i_clk) begin
        past  <= 1'b1;
        fresh <= i_rst || (fresh && !first && !more);
        if (load) {index, zero, clear} <= {i_next_index, i_next_zero, i_next_clear};
        if (i_rst) valid <= 1'b0;
        else if (load) valid <= i_next_valid;
    end
    reuse_issue #(.PORTS(PORTS), .MULTIPLIERS(MULTIPLIERS), .INDEX_ENTRIES(INDEX_ENTRIES)) u_issue (
        .i_clk(i_clk), .i_rst(i_rst), .i_load(load), .i_next_index(i_next_index), .i_next_zero(i_next_zero),
        .i_next_clear(i_next_clear), .i_valid(valid), .i_credit(i_credit), .i_index(index), .i_clear(clear), .o_first(first),
        .o_more(more), .o_leave(leave), .o_pick(pick), .o_pick_index(pick_index), .f_tags(tags), .f_started(started),
        .f_need(need), .f_same(same));
    issue_spec #(.PORTS(PORTS), .MULTIPLIERS(MULTIPLIERS), .INDEX_ENTRIES(INDEX_ENTRIES)) u_spec (
        .i_clk(i_clk), .i_rst(i_rst), .i_valid(valid), .i_credit(i_credit), .i_index(index), .i_zero(zero), .i_clear(clear),
        .i_free(i_free), .o_first(spec_first), .o_more(spec_more), .o_leave(spec_leave), .o_pick(spec_pick),
        .o_pick_index(spec_index), .o_need(spec_need), .o_tags(spec_tags), .o_started(spec_started));
    genvar p, q;
    generate
        for (p = 0; p < PORTS; p = p + 1) begin : g_equal
            for (q = 0; q < PORTS; q = q + 1) begin : g_code
                assign equal[PORTS*p+q] = index[8*p +: 8] == index[8*q +: 8];
            end
        end
    endgenerate
    always @* begin
        assume (past || i_rst);
        if (valid && !clear) assume (!fresh);
        if (INDEX_ENTRIES == 128) assume ((i_next_index & {PORTS{8'h80}}) == 0);
        if (past) begin
            started_is_the_same: assert (started == spec_started && (!started || (valid && !fresh)));
            if (!fresh) tags_are_the_same: assert (tags == spec_tags);
            if (valid) begin
                need_is_what_is_not_there: assert (need == spec_need);
                same_is_equal_codes: assert (same == equal);
                indexes_are_the_same: assert (pick_index == spec_index);
                if (INDEX_ENTRIES == 128) index_is_there: assert ((index & {PORTS{8'h80}}) == 0);
            end
            steps_are_the_same: assert ({first, more, leave, pick} == {spec_first, spec_more, spec_leave, spec_pick});
        end
    end
endmodule
`default_nettype wire
