// A lane's engine (reuse or mac) before its product_fifo. The only rule: a pop is made when the FIFO has a group. What comes
// from the issue register (i_load, i_next_*, the group) is free, so also a group that changes before it leaves.
// Proved, with filled = groups in the FIFO:
//   places    taken places = group at issue + groups in flight to the FIFO + filled <= DEPTH: none is lost, none given twice
//   credit    is given exactly when a place is free
//   room      a push finds room, a pop finds a group
//   order     an arbitrary pushed group comes out unchanged, after exactly the groups that were there before it
`default_nettype none
module fifo_check #(
    parameter ENGINE_REUSE  = 1,
    parameter PORTS         = 2,
    parameter MULTIPLIERS   = 1,
    parameter LATENCY       = 1,
    parameter DEPTH         = 5,
    parameter BITS          = 3,
    parameter INDEX_ENTRIES = 128,
    parameter PBITS         = BITS + 8
) (
    input wire               i_clk,
    input wire               i_rst,
    input wire               i_load,
    input wire [8*PORTS-1:0] i_next_index,
    input wire [PORTS-1:0]   i_next_zero,
    input wire               i_next_clear,
    input wire               i_valid,
    input wire [8*PORTS-1:0] i_index,
    input wire [PORTS-1:0]   i_negative,
    input wire [PORTS-1:0]   i_zero,
    input wire               i_codebook,
    input wire               i_signed,
    input wire               i_clear,
    input wire [BITS-1:0]    i_x,
    input wire [127:0]       i_entries,
    input wire               i_pop,
    input wire               i_choose
);
    localparam ADDR = $clog2(DEPTH);
    wire first, credit, push, some, started, legal;
    wire [PORTS*PBITS-1:0] data, out, there;
    wire [LATENCY-1:0]     leaving;
    wire [6:0]             used, filled;
    wire [ADDR-1:0]        head, tail, at;
    generate
        if (ENGINE_REUSE != 0) begin : g_reuse
            engine_reuse #(.PORTS(PORTS), .MULTIPLIERS(MULTIPLIERS), .LATENCY(LATENCY), .TOKENS(1), .ACTIVATION_BITS(BITS),
                           .INDEX_ENTRIES(INDEX_ENTRIES)) u_engine (
                .i_clk(i_clk), .i_rst(i_rst), .i_load(i_load), .i_next_index(i_next_index), .i_next_zero(i_next_zero),
                .i_next_clear(i_next_clear), .i_valid(i_valid), .i_credit(credit), .i_index(i_index), .i_negative(i_negative),
                .i_zero(i_zero), .i_codebook(i_codebook), .i_signed(i_signed), .i_clear(i_clear), .i_x(i_x),
                .i_entries(i_entries), .o_first(first), .o_push(push), .o_data(data), .f_entry(8'd0), .f_leaving(leaving),
                .f_started(started));
            assign legal = 1'b1;
        end else begin : g_mac
            engine_mac #(.PORTS(PORTS), .MULTIPLIERS(MULTIPLIERS), .LATENCY(LATENCY), .TOKENS(1), .ACTIVATION_BITS(BITS)) u_engine (
                .i_clk(i_clk), .i_rst(i_rst), .i_valid(i_valid), .i_credit(credit), .i_index(i_index), .i_negative(i_negative),
                .i_zero(i_zero), .i_codebook(i_codebook), .i_signed(i_signed), .i_clear(i_clear), .i_x(i_x),
                .i_entries(i_entries), .o_first(first), .o_push(push), .o_data(data), .f_leaving(leaving), .f_started(started), .f_legal(legal));
        end
    endgenerate
    product_fifo #(.WIDTH(PORTS*PBITS), .DEPTH(DEPTH)) u_fifo (
        .i_clk(i_clk), .i_rst(i_rst), .i_reserve(first), .o_credit(credit), .i_push(push), .i_data(data), .o_some(some),
        .i_pop(i_pop), .o_data(out), .f_used(used), .f_filled(filled), .f_head(head), .f_tail(tail), .f_at(at), .f_there(there));

    reg past;
    initial past = 1'b0;
    always @(posedge i_clk) past <= 1'b1;
    always @* begin
        assume (past || i_rst);
        if (i_pop) assume (some);
    end

    reg  [6:0] flight;
    integer    i;
    always @* begin
        flight = {6'd0, started};
        for (i = 0; i < LATENCY; i = i + 1) flight = flight + {6'd0, leaving[i]};
    end

    // One chosen push: `before` groups must be popped before it.
    reg                   chosen;
    reg [6:0]             before;
    reg [PORTS*PBITS-1:0] group;
    wire                  choose = i_choose && push && !chosen;
    initial chosen = 1'b0;
    always @(posedge i_clk)
        if (i_rst) chosen <= 1'b0;
        else if (choose) {chosen, before, group} <= {1'b1, filled - {6'd0, i_pop}, data};
        else if (chosen && i_pop) {chosen, before} <= {before != 7'd0, before - 7'd1};
    assign at = head + before[ADDR-1:0];

    wire [ADDR-1:0] span = tail - head;
    always @* if (past) begin
        phase_is_legal: assert (legal);
        places_none_lost: assert (used == flight + filled);
        places_not_overbooked: assert (filled <= used && used <= DEPTH);
        credit_is_a_free_place: assert (credit == (used < DEPTH));
        some_is_a_group: assert (some == (filled != 7'd0));
        pointers_agree: assert (span == filled[ADDR-1:0]);
        if (push) push_finds_room: assert (filled < DEPTH);
        if (first) reserve_has_credit: assert (credit);
        if (chosen) begin
            chosen_is_inside: assert (before < filled);
            chosen_is_kept: assert (there == group);
            if (i_pop && before == 7'd0) chosen_comes_out: assert (out == group);
        end
    end
endmodule
`default_nettype wire
