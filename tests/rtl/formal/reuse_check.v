// engine_reuse with its decoders, under the rules that lane_front keeps: a group stays until it leaves; activations, class of
// codes and codebook change only at a group with i_clear; the first group after a reset has i_clear.
// Proved for an arbitrary port, token and cache entry, so for all:
//   kept      an entry whose tag was set LATENCY cycles ago holds the product of that row's activation and the entry's factor
//   product   every pushed element is the product of the group's own activation and its own code's value
//   pushed    a group is pushed LATENCY cycles after it leaves, and only then
`default_nettype none
module reuse_check #(
    parameter PORTS         = 4,
    parameter MULTIPLIERS   = 1,
    parameter LATENCY       = 2,
    parameter TOKENS        = 1,
    parameter BITS          = 3,
    parameter INDEX_ENTRIES = 256,
    parameter XBITS         = TOKENS * BITS,
    parameter PBITS         = BITS + 8,
    parameter WIDTH         = TOKENS * PBITS
) (
    input wire               i_clk,
    input wire               i_rst,
    input wire               i_valid,
    input wire               i_credit,
    input wire [8*PORTS-1:0] i_raw,
    input wire [3:0]         i_format,
    input wire               i_clear,
    input wire [XBITS-1:0]   i_x,
    input wire [127:0]       i_entries
);
    localparam LOGM = $clog2(MULTIPLIERS);
    (* anyconst *) reg [7:0] entry;
    (* anyconst *) reg [3:0] port, token;

    wire [8*PORTS-1:0] index;
    wire [PORTS-1:0]   negative, zero;
    genvar g;
    generate
        for (g = 0; g < PORTS; g = g + 1) begin : g_decode
            code_decode u_decode (.i_raw(i_raw[8*g +: 8]), .i_format(i_format), .o_index(index[8*g +: 8]),
                                  .o_negative(negative[g]), .o_zero(zero[g]));
        end
    endgenerate
    wire [1:0] kind = i_format < 4'd4 ? 2'd0 : i_format < 4'd8 ? 2'd1 : 2'd2;
    wire first, more, leave, push, started;
    wire [INDEX_ENTRIES-1:0]            tags;
    wire [PORTS*MULTIPLIERS*WIDTH-1:0]  kept;
    wire [PORTS*TOKENS*PBITS-1:0]       data;
    engine_reuse #(.PORTS(PORTS), .MULTIPLIERS(MULTIPLIERS), .LATENCY(LATENCY), .TOKENS(TOKENS), .ACTIVATION_BITS(BITS),
                   .INDEX_ENTRIES(INDEX_ENTRIES)) u_engine (
        .i_clk(i_clk), .i_rst(i_rst), .i_load(1'b0), .i_next_index({8*PORTS{1'b0}}), .i_next_zero({PORTS{1'b0}}),
        .i_next_clear(1'b0), .i_valid(i_valid), .i_credit(i_credit), .i_index(index), .i_negative(negative),
        .i_zero(zero), .i_codebook(kind == 2'd2), .i_signed(kind == 2'd0), .i_clear(i_clear), .i_x(i_x),
        .i_entries(i_entries), .o_first(first), .o_more(more), .o_leave(leave), .o_push(push), .o_data(data),
        .f_entry(entry), .f_kept(kept), .f_tags(tags), .f_started(started));
    wire issue = first || more;

    // The rules.
    reg               past, open, fresh;
    reg [8*PORTS-1:0] open_raw;
    reg [3:0]         open_format;
    reg               open_clear;
    reg [XBITS-1:0]   open_x, row_x;
    reg [127:0]       open_entries, row_entries;
    reg [1:0]         row_kind;
    wire [1:0]        open_kind = open_format < 4'd4 ? 2'd0 : open_format < 4'd8 ? 2'd1 : 2'd2;
    initial {past, open, fresh} = 3'b001;
    always @(posedge i_clk) begin
        past <= 1'b1;
        open <= i_valid && !leave && !i_rst;
        {open_raw, open_format, open_clear, open_x, open_entries} <= {i_raw, i_format, i_clear, i_x, i_entries};
        fresh <= i_rst || (fresh && !issue);
        if (issue) {row_x, row_kind, row_entries} <= {i_x, kind, i_entries};
    end
    always @* begin
        assume (past || i_rst);
        assume (i_format <= 4'd8);
        if (INDEX_ENTRIES == 128) assume (i_format != 4'd7);
        if (open) assume (i_valid && {i_raw, i_format, i_clear, i_x, i_entries}
                          == {open_raw, open_format, open_clear, open_x, open_entries});
        if (i_valid && !i_clear) assume (!fresh && {i_x, kind, i_entries} == {row_x, row_kind, row_entries});
        assume (port < PORTS && token < TOKENS);
        assume (entry < INDEX_ENTRIES);
    end

    // A product of the free multiplier, by the specification alone: activation and signed value of a code.
    function [WIDTH-1:0] free(input [XBITS-1:0] x, input [8:0] factor);
        integer t;
        for (t = 0; t < TOKENS; t = t + 1) free[PBITS*t +: PBITS] = {x[BITS*t +: BITS-1], factor};
    endfunction
    function [8:0] factor_of(input [7:0] at, input [1:0] of, input [127:0] entries);
        factor_of = of == 2'd2 ? {entries[8*at[3:0]+7], entries[8*at[3:0] +: 8]} : of == 2'd0 && at == 8'd0 ? 9'd128 : {1'b0, at};
    endfunction
    function [8:0] value_of(input [7:0] raw, input [3:0] format, input [127:0] entries);
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

    // What was, LATENCY cycles ago.
    localparam NOW = 8 + 4 + XBITS + 128 + 8 + XBITS + 2 + 128 + 2;
    reg  [LATENCY-1:0]     leaving;
    reg  [NOW*LATENCY-1:0] stages;
    integer s;
    initial for (s = 0; s < LATENCY; s = s + 1) stages[NOW*s +: NOW] = {{(NOW-1){1'b0}}, 1'b1};
    initial leaving = 0;
    wire [7:0] now_raw = i_raw[8*port +: 8], now_index = index[8*port +: 8];
    always @(posedge i_clk) begin
        leaving <= i_rst ? 0 : {leaving, leave};
        stages  <= {stages, {now_raw, i_format, i_x, i_entries, now_index, row_x, row_kind, row_entries, tags[entry], fresh}};
    end
    wire [7:0]       was_raw, was_index;
    wire [3:0]       was_format;
    wire [XBITS-1:0] was_x, was_row_x;
    wire [127:0]     was_entries, was_row_entries;
    wire [1:0]       was_row_kind;
    wire             was_tag, was_fresh;
    assign {was_raw, was_format, was_x, was_entries, was_index, was_row_x, was_row_kind, was_row_entries, was_tag, was_fresh}
           = stages[NOW*(LATENCY-1) +: NOW];

    wire [7:0]       bank = entry & (MULTIPLIERS - 1);
    wire [WIDTH-1:0] there = kept[WIDTH*(port*MULTIPLIERS + bank) +: WIDTH];
    wire [8:0]       value = value_of(was_raw, was_format, was_entries);
    wire             minus = was_format < 4'd4 && value[8];
    wire             nil   = was_format < 4'd8 && value == 9'd0;
    wire [WIDTH-1:0] made  = free(was_x, minus ? 9'd0 - value : value);
    always @* if (past) begin
        if (started) begin
            started_group_is_open: assert (open && !fresh);
            started_row_is_current: assert ({row_x, row_kind, row_entries} == {open_x, open_kind, open_entries});
        end
        pushed: assert (push == leaving[LATENCY-1]);
        if (was_tag && !was_fresh)
            kept_is_product: assert (there == free(was_row_x, factor_of(entry, was_row_kind, was_row_entries)));
        if (push && (nil || was_index == entry))
            product_is_exact: assert (data[PBITS*(token*PORTS+port) +: PBITS]
                == (nil ? {PBITS{1'b0}} : minus ? {PBITS{1'b0}} - made[PBITS*token +: PBITS] : made[PBITS*token +: PBITS]));
    end
endmodule
`default_nettype wire
