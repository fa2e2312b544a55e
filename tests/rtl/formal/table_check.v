// table_fill and engine_table with its decoders, under the rules that matrix_control and lane_front keep: between i_start and the
// last group (i_active) the row's sets, the first line, the number of blocks and the codebook stay; a group with i_clear is the
// first of the next set of the walk over blocks and sets, any other is of the set that began last; a codebook is set at least
// four cycles before a start. How many groups a set has, and when each comes, is free.
// Proved for an arbitrary port, token, side, line of activations, nibbles and entry of the codebook, so for all:
//   product   a code's value is 16 times its high nibble, signed but in unsigned codes, and its low one; what a look-up finds is
//             the activation of its set's block times each of them; every pushed element is 16 times the one and the other
//   pushed    a group is pushed LATENCY cycles after it was looked up, and only then
//   pace      a set can begin when a fill has passed since the one before began, and not sooner
`default_nettype none
`include "axlora_isa.vh"
module table_check #(
    parameter PORTS       = 2,
    parameter MULTIPLIERS = 1,
    parameter LATENCY     = 1,
    parameter TOKENS      = 1,
    parameter BITS        = 8,
    parameter XBITS       = TOKENS * BITS,
    parameter PBITS       = BITS + 8,
    parameter WIDE        = BITS + 4
) (
    input wire               i_clk,
    input wire               i_rst,
    input wire               i_table_write,
    input wire [3:0]         i_table_index,
    input wire               i_table_clear,
    input wire               i_unsigned,
    input wire               i_start,
    input wire               i_end,
    input wire [15:0]        i_last_block,
    input wire [15:0]        i_line,
    input wire               i_codebook_set,
    input wire [127:0]       i_codebook,
    input wire               i_valid,
    input wire               i_clear,
    input wire [8*PORTS-1:0] i_raw,
    input wire [3:0]         i_format,
    input wire [XBITS-1:0]   i_x
);
    localparam LOGM = $clog2(MULTIPLIERS);
    localparam [5:0] FILL = 16 / MULTIPLIERS;
    (* anyconst *) reg [3:0]             port, token, low_nibble, high_nibble, book_entry;
    (* anyconst *) reg                   side;
    (* anyconst *) reg [15:0]            line;
    (* anyconst *) reg signed [BITS-1:0] x;  // of that line and token

    wire        read, load, write, fill_unsigned, fill_side, look_side, ready, book_write;
    wire [15:0] read_line;
    wire [3:0]  entry, book_at;
    wire [7:0]  book_data;
    wire        first, more, begins, push;
    wire [15:0] kinds, left;
    wire [3:0]  last_set, set;
    wire [2:0]  coming;
    wire        known, sets_left, busy, fresh;
    table_fill #(.MULTIPLIERS(MULTIPLIERS)) u_fill (
        .i_clk(i_clk), .i_rst(i_rst), .i_table_write(i_table_write), .i_table_index(i_table_index), .i_clear(i_table_clear),
        .i_unsigned(i_unsigned), .i_start(i_start), .i_last_block(i_last_block), .i_line(i_line), .i_begin(begins),
        .i_codebook_set(i_codebook_set), .i_codebook(i_codebook), .o_read(read), .o_read_line(read_line), .o_load(load),
        .o_write(write), .o_entry(entry), .o_unsigned(fill_unsigned), .o_side(fill_side), .o_look_side(look_side),
        .o_ready(ready), .o_codebook_write(book_write), .o_codebook_entry(book_at), .o_codebook_data(book_data),
        .f_kinds(kinds), .f_last_set(last_set), .f_set(set), .f_left(left), .f_coming(coming), .f_known(known),
        .f_more(sets_left), .f_busy(busy), .f_first(fresh));

    wire [8*PORTS-1:0] index;
    genvar g;
    generate
        for (g = 0; g < PORTS; g = g + 1) begin : g_decode
            code_decode u_decode (.i_raw(i_raw[8*g +: 8]), .i_format(i_format), .o_value(index[8*g +: 8]));
        end
    endgenerate
    wire [PORTS*TOKENS*PBITS-1:0]            data;
    wire [XBITS-1:0]                         fill_x;
    wire [WIDE*TOKENS*MULTIPLIERS-1:0]       multiples;
    wire [PORTS*MULTIPLIERS*TOKENS*WIDE-1:0] lows, highs;
    wire [8*PORTS-1:0]                       books;
    engine_table #(.PORTS(PORTS), .MULTIPLIERS(MULTIPLIERS), .LATENCY(LATENCY), .TOKENS(TOKENS), .ACTIVATION_BITS(BITS)) u_engine (
        .i_clk(i_clk), .i_rst(i_rst), .i_valid(i_valid), .i_index(index), .i_codebook(i_format == 4'd8), .i_clear(i_clear),
        .i_x(i_x), .i_load(load), .i_write(write), .i_entry(entry), .i_unsigned(fill_unsigned), .i_side(fill_side),
        .i_look_side(look_side), .i_ready(ready), .i_codebook_write(book_write), .i_codebook_entry(book_at),
        .i_codebook_data(book_data), .o_first(first), .o_more(more), .o_begin(begins), .o_push(push), .o_data(data),
        .f_side(side), .f_low_nibble(low_nibble), .f_high_nibble(high_nibble), .f_book_entry(book_entry), .f_x(fill_x),
        .f_multiples(multiples), .f_lows(lows), .f_highs(highs), .f_books(books));

    // Places of the walk over blocks and sets: {is one, set, blocks left behind its own, line}.
    function [36:0] after(input [36:0] at, input [3:0] last);
        if (at[35:32] != last) after = {at[36], at[35:32] + 4'd1, at[31:0]};
        else after = {at[36] && at[31:16] != 16'd0, 4'd0, at[31:16] - 16'd1, at[15:0] + 16'd1};
    endfunction
    reg         past, active, begun;
    reg  [36:0] now, next;  // the set that began last, and the one behind it
    reg  [15:0] in_bank, in_lane, was_line, was_last;
    reg  [127:0] was_book;
    reg  [5:0]  since, age;  // cycles since the last set began, since the start; as far as they matter
    reg  [2:0]  settled;
    initial {past, active, begun, settled, age, since} = 18'd0;
    always @(posedge i_clk) begin
        past <= 1'b1;
        {was_line, was_last, was_book} <= {i_line, i_last_block, i_codebook};
        if (read) in_bank <= read_line;
        in_lane <= in_bank;
        settled <= i_rst || i_codebook_set ? 3'd0 : settled >= 3'd4 ? settled : settled + 3'd1;
        age     <= i_start ? 6'd0 : age >= 6'd32 ? age : age + 6'd1;
        since   <= begins ? 6'd1 : since >= 6'd32 ? since : since + 6'd1;
        if (i_rst) {active, begun} <= 2'b00;
        else if (i_start) begin
            {active, begun} <= 2'b10;
            next <= {1'b1, 4'd0, i_last_block, i_line};
        end else begin
            if (i_end) active <= 1'b0;
            if (begins) begin
                begun <= 1'b1;
                now   <= next;
                next  <= after(next, last_set);
            end
        end
    end
    wire is_unsigned = i_format >= 4'd4 && i_format < 4'd8;
    always @* begin
        assume (past || i_rst);
        assume (i_format <= 4'd8 && port < PORTS && token < TOKENS);
        if (in_lane == line) assume (i_x[BITS*token +: BITS] == x);
        if (active) assume (!i_start && !i_table_write && !i_codebook_set);
        if (active) assume ({i_line, i_last_block} == {was_line, was_last});
        if (past && settled != 3'd0) assume (i_codebook == was_book);
        if (i_start) assume (settled >= 3'd3 && !i_codebook_set && !i_table_write);
        if (i_valid) assume (active && (i_clear ? next[36] && is_unsigned == kinds[next[35:32]]
                                                : begun && is_unsigned == kinds[now[35:32]]));
    end

    function signed [8:0] value_of(input [7:0] raw, input [3:0] format, input [127:0] entries);
        case (format)
            4'd0: value_of = {{7{raw[1]}}, raw[1:0]};
            4'd1: value_of = {{6{raw[2]}}, raw[2:0]};
            4'd2: value_of = {{5{raw[3]}}, raw[3:0]};
            4'd3: value_of = {raw[7], raw};
            4'd4: value_of = {7'd0, raw[1:0]};
            4'd5: value_of = {6'd0, raw[2:0]};
            4'd6: value_of = {5'd0, raw[3:0]};
            4'd7: value_of = {1'b0, raw};
            default: value_of = {entries[8*raw[3:0]+7], entries[8*raw[3:0] +: 8]};
        endcase
    endfunction
    wire [7:0]        raw   = i_raw[8*port +: 8];
    wire signed [8:0] value = value_of(raw, i_format, i_codebook);
    // Look-ups that the arbitrary side, line, nibbles and entry are about.
    wire about = first && (i_clear ? next[15:0] : now[15:0]) == line && (look_side ^ i_clear) == side
               && value[3:0] == low_nibble && value[7:4] == high_nibble && (i_format != 4'd8 || raw[3:0] == book_entry);
    // What tables hold: x times a nibble, low unsigned, high signed but in a set of unsigned codes.
    function [WIDE-1:0] times(input signed [WIDE-1:0] of, input signed [5:0] by);
        times = ({WIDE{by[0]}} & of) + (({WIDE{by[1]}} & of) << 1) + (({WIDE{by[2]}} & of) << 2) + (({WIDE{by[3]}} & of) << 3)
                - (({WIDE{by[5]}} & of) << 4);
    endfunction
    wire [WIDE-1:0] times_low   = times(x, {2'b00, low_nibble});
    wire [WIDE-1:0] times_plain = times(x, {2'b00, high_nibble}), times_signed = times(x, {{2{high_nibble[3]}}, high_nibble});
    wire [3:0]      low_bank = low_nibble & (MULTIPLIERS - 1), high_bank = high_nibble & (MULTIPLIERS - 1);
    wire [WIDE-1:0] low  = lows[WIDE*(TOKENS*(port*MULTIPLIERS + low_bank) + token) +: WIDE];
    wire [WIDE-1:0] high = highs[WIDE*(TOKENS*(port*MULTIPLIERS + high_bank) + token) +: WIDE];
    reg  [LATENCY-1:0]            pushes;
    reg  [(2*WIDE+1)*LATENCY-1:0] stages;
    initial {pushes, stages} = 0;
    always @(posedge i_clk) begin
        pushes <= i_rst ? 0 : {pushes, first};
        stages <= {stages, {about, high, low}};
    end
    wire            was_about;
    wire [WIDE-1:0] was_low, was_high;
    assign {was_about, was_high, was_low} = stages[(2*WIDE+1)*(LATENCY-1) +: 2*WIDE+1];
    wire [36:0]     filled = ready ? after(next, last_set) : next;  // the set whose fill has begun or waits
    wire [36:0]     loaded = busy ? after(filled, last_set) : filled;
    wire            there  = begun && side == look_side;
    wire            coming_there = ready && side != look_side;
    wire            partly = busy && !ready && side != look_side;
    wire [BITS-1:0] own = fill_x[BITS*token +: BITS];
    always @* if (past && active) begin
        if (begun) now_before_next: assert (next == after(now, last_set));
        sides_alternate: assert (fill_side == (look_side ^ !ready));
        if (busy) filled_is_a_set: assert (filled[36]);
        if (ready) ready_is_a_set: assert (next[36]);
        walk_is_the_same: assert (sets_left == loaded[36]);
        if (sets_left) walk_is_at: assert ({set, left, read_line} == loaded[35:0]);
        if (coming[1]) read_is_in_bank: assert (in_bank == read_line);
        if (coming[2] || known) read_is_in_lane: assert (in_bank == read_line && in_lane == read_line);
        one_read: assert ({2'b00, coming[0]} + coming[1] + coming[2] + known == {2'b00, sets_left});
        entry_is_of_a_bank: assert (entry < FILL && (busy || entry == 4'd0) && (!ready || entry == 4'd0));
        // the fill
        if (busy && filled[15:0] == line) fill_is_of_its_line: assert (own == x);
        if (busy) fill_is_of_its_class: assert (fill_unsigned == kinds[filled[35:32]]);
        if (busy && filled[15:0] == line) begin
            multiple_of_a_bank: assert (multiples[WIDE*(TOKENS*low_bank + token) +: WIDE]
                                        == times(x, {2'b00, entry << LOGM} + {2'b00, low_bank}));
            multiple_of_the_other: assert (multiples[WIDE*(TOKENS*high_bank + token) +: WIDE]
                                           == times(x, {2'b00, entry << LOGM} + {2'b00, high_bank}));
        end
        // what is there
        if (there && now[15:0] == line || coming_there && next[15:0] == line
            || partly && next[15:0] == line && (low_nibble >> LOGM) < entry)
            low_is_a_multiple: assert (low == times_low);
        if (there && now[15:0] == line || coming_there && next[15:0] == line
            || partly && next[15:0] == line && (high_nibble >> LOGM) < entry)
            high_is_a_multiple: assert (high == (kinds[there ? now[35:32] : next[35:32]] ? times_plain : times_signed));
        // the pace
        if (fresh) first_fill: assert (!begun && !ready && entry == 4'd0 && look_side);
        if (!begun) begin
            if (!busy && !ready) before_the_fill: assert (age <= 6'd3 && {known, coming} == 4'b0001 << age && fresh && sets_left);
            if (busy && !ready) in_the_fill: assert (age == 6'd4 + {2'b00, entry});
            if (ready) after_the_fill: assert (age >= 6'd4 + FILL);
            if (fresh && busy) fresh_waits_not: assert (entry == 4'd0);
        end else if (next[36] && !ready) pace_of_a_fill: assert (busy && since == {2'b00, entry} && since < FILL);
        if (begun && ready) pace_is_kept: assert (since >= FILL);
        if (ready && after(next, last_set) >> 36) next_waits: assert (busy && entry == 4'd0);
        if (book_write) codebook_in_time: assert (!begun && {2'b00, book_at} >= age + 6'd4);
        if (busy && coming != 3'd0) read_beside_a_fill: assert (ready || entry <= (coming[0] ? 4'd0 : coming[1] ? 4'd1 : 4'd2));
    end
    always @* if (past) begin
        if (!book_write || book_at > book_entry) book_is_the_codebook: assert (books[8*port +: 8] == i_codebook[8*book_entry +: 8]);
        if (book_write) book_is_written: assert (book_at >= {1'b0, settled});
        if (settled == 3'd0) book_begins: assert (book_write && book_at == 4'd0);
        counts_end: assert (age <= 6'd32 && since <= 6'd32);
        pushed: assert (push == pushes[LATENCY-1]);
        if (about) begin
            value_is_its_nibbles: assert (value == {high_nibble[3] && !is_unsigned, high_nibble, low_nibble});
            low_times_x: assert (low == times_low);
            high_times_x: assert (high == (is_unsigned ? times_plain : times_signed));
        end
        if (push && was_about)
            product_is_the_sum: assert (data[PBITS*(token*PORTS+port) +: PBITS]
                                        == {was_high, 4'd0} + {{4{was_low[WIDE-1]}}, was_low});
    end
endmodule
`default_nettype wire
