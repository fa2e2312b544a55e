// A lane up to the issue register: S walks, F reads the weight and activation banks (word = line + (gi >> sh)), W selects the
// sub-group gi mod 2^sh, D decodes its P codes. S takes a step while a place of the queue behind D is free, so that no stage
// holds; i_leave takes the first of the queue (o_*). PLACES covers the cycles from a place's return to the group that fills it.
// With tables the activation banks are read ahead of the groups (i_read; o_ahead_x two cycles later).
`default_nettype none
`include "axlora_isa.vh"
module lane_front #(
    parameter ENGINE          = `AXL_ENGINE_REUSE,
    parameter LANE            = 0,
    parameter LANES           = 8,
    parameter PORTS           = 4,
    parameter TOKENS          = 2,
    parameter ACTIVATION_BITS = 8,
    parameter BEAT_BYTES      = 8,
    parameter WBUF_LINES      = 4096,
    parameter ABUF_LINES      = 512,
    parameter UBUF_LINES      = 64,
    parameter XBITS           = TOKENS * ACTIVATION_BITS,
    parameter UADDR           = $clog2(UBUF_LINES)
) (
    input  wire                    i_clk,
    input  wire                    i_rst,
    input  wire                    i_table_write,
    input  wire [3:0]              i_table_index,
    input  wire [68+TOKENS:0]      i_table,
    input  wire                    i_start,
    input  wire [3:0]              i_last_segment,
    input  wire [15:0]             i_last_block,
    input  wire [15:0]             i_line,
    input  wire                    i_wbuf_write,
    input  wire [23:0]             i_key,
    input  wire                    i_abuf_write,
    input  wire [16:0]             i_write_beat,
    input  wire [8*BEAT_BYTES-1:0] i_write_data,
    input  wire [TOKENS-1:0]       i_ubuf_write,
    input  wire [UADDR-1:0]        i_ubuf_line,
    input  wire [ACTIVATION_BITS-1:0] i_ubuf_data,
    input  wire                    i_read,       // of table: the activations are read ahead
    input  wire [15:0]             i_read_line,
    input  wire                    i_leave,
    output reg                     o_valid,
    output reg  [8*PORTS-1:0]      o_index,
    output reg  [PORTS-1:0]        o_negative,
    output reg  [PORTS-1:0]        o_zero,
    output reg                     o_codebook,
    output reg                     o_signed,
    output reg                     o_clear,
    output reg  [TOKENS-1:0]       o_mask,
    output reg  [XBITS-1:0]        o_x,
    output wire [XBITS-1:0]        o_ahead_x,
    output wire                    o_outside
);
    localparam BYTES  = ACTIVATION_BITS / 8;
    localparam ABEATS = LANES * TOKENS * BYTES / BEAT_BYTES;
    localparam LOGA   = $clog2(ABEATS);
    localparam AADDR  = $clog2(ABUF_LINES), WADDR = $clog2(WBUF_LINES);

    // S
    localparam [16:0]  W = WBUF_LINES[16:0], A = ABUF_LINES[16:0], U = UBUF_LINES[16:0];
    wire               s_valid, s_clear;
    wire [15:0]        s_group, s_word_line, s_line;
    wire [3:0]         s_format;
    wire [TOKENS-1:0]  s_mask;
    reg                f_valid, w_valid, d_valid;
    localparam [3:0]   PLACES = 4'd8;
    reg  [3:0]         used;  // places of groups from S to the queue's end
    reg                room, taken;
    wire               step = s_valid && room;
    lane_sequence #(.TOKENS(TOKENS)) u_sequence (
        .i_clk(i_clk), .i_rst(i_rst), .i_table_write(i_table_write), .i_table_index(i_table_index), .i_table(i_table),
        .i_start(i_start), .i_last_segment(i_last_segment), .i_last_block(i_last_block), .i_line(i_line),
        .i_advance(step), .o_valid(s_valid), .o_group(s_group), .o_word_line(s_word_line), .o_line(s_line),
        .o_format(s_format), .o_mask(s_mask), .o_clear(s_clear));

    // F
    reg  [15:0]        f_group, f_word_line, f_line;
    reg  [3:0]         f_format;
    reg                f_clear;
    reg  [TOKENS-1:0]  f_mask;
    wire               f_wide   = f_format == `AXL_FORMAT_S8 || f_format == `AXL_FORMAT_U8;
    wire               f_narrow = f_format == `AXL_FORMAT_S2 || f_format == `AXL_FORMAT_U2;
    wire [15:0]        f_word   = f_word_line + (f_wide ? f_group : f_narrow ? f_group >> 2 : f_group >> 1);
    wire [1:0]         f_sub    = f_wide ? 2'd0 : f_narrow ? f_group[1:0] : {1'b0, f_group[0]};
    assign o_outside = f_valid && ({1'b0, f_word} >= W || {2'b00, f_line[14:0]} >= (f_line[15] ? U : A));

    wire [8*PORTS-1:0] word;
    wire [XBITS-1:0]   from_abuf, from_ubuf, abuf_data;
    wire [TOKENS-1:0]  abuf_write;
    wire [16:0]        write_line = i_write_beat >> LOGA;
    wire [16:0]        write_part = i_write_beat - (write_line << LOGA);
    wire               bank_read = ENGINE == `AXL_ENGINE_TABLE ? i_read : f_valid;
    wire [15:0]        bank_line = ENGINE == `AXL_ENGINE_TABLE ? i_read_line : f_line;
    wire               unused_bits = &{1'b0, write_line, f_word, f_line, bank_line, i_read, i_read_line};
    genvar t, p;
    generate
        for (t = 0; t < TOKENS; t = t + 1) begin : g_write
            localparam integer BYTE = (t * LANES + LANE) * BYTES;
            localparam integer BEAT = BYTE / BEAT_BYTES;
            localparam [16:0] PART = BEAT[16:0];
            assign abuf_write[t] = i_abuf_write && write_part == PART;
            assign abuf_data[ACTIVATION_BITS*t +: ACTIVATION_BITS] = i_write_data[8*(BYTE % BEAT_BYTES) +: ACTIVATION_BITS];
        end
    endgenerate
    weight_bank #(.LANE(LANE), .LANES(LANES), .PORTS(PORTS), .BEAT_BYTES(BEAT_BYTES), .LINES(WBUF_LINES)) u_weights (
        .i_clk(i_clk), .i_write(i_wbuf_write), .i_key(i_key), .i_write_beat(i_write_beat), .i_write_data(i_write_data),
        .i_read(f_valid), .i_read_line(f_word[WADDR-1:0]), .o_read_data(word));
    activation_bank #(.TOKENS(TOKENS), .BITS(ACTIVATION_BITS), .LINES(ABUF_LINES)) u_abuf (
        .i_clk(i_clk), .i_write(abuf_write), .i_write_line(write_line[AADDR-1:0]), .i_write_data(abuf_data),
        .i_read(bank_read), .i_read_line(bank_line[AADDR-1:0]), .o_read_data(from_abuf));
    activation_bank #(.TOKENS(TOKENS), .BITS(ACTIVATION_BITS), .LINES(UBUF_LINES)) u_ubuf (
        .i_clk(i_clk), .i_write(i_ubuf_write), .i_write_line(i_ubuf_line), .i_write_data({TOKENS{i_ubuf_data}}),
        .i_read(bank_read), .i_read_line(bank_line[UADDR-1:0]), .o_read_data(from_ubuf));

    // W
    reg  [1:0]         w_sub;
    reg  [3:0]         w_format;
    reg                w_clear, w_ubuf;
    reg  [TOKENS-1:0]  w_mask;
    wire               wide   = w_format == `AXL_FORMAT_S8 || w_format == `AXL_FORMAT_U8;
    wire               narrow = w_format == `AXL_FORMAT_S2 || w_format == `AXL_FORMAT_U2;
    wire [4*PORTS-1:0] half    = w_sub[0] ? word[8*PORTS-1:4*PORTS] : word[4*PORTS-1:0];
    wire [2*PORTS-1:0] quarter = word[2*PORTS*w_sub +: 2*PORTS];

    // D
    reg  [8*PORTS-1:0] d_raw;
    reg  [3:0]         d_format;
    reg                d_clear;
    reg  [TOKENS-1:0]  d_mask;
    reg  [XBITS-1:0]   d_x;
    wire [8*PORTS-1:0] index, value;
    wire [PORTS-1:0]   negative, zero;
    generate
        for (p = 0; p < PORTS; p = p + 1) begin : g_code
            code_decode u_decode (
                .i_raw(d_raw[8*p +: 8]), .i_format(d_format), .o_index(index[8*p +: 8]), .o_negative(negative[p]),
                .o_zero(zero[p]), .o_value(value[8*p +: 8]));
            always @(posedge i_clk)
                d_raw[8*p +: 8] <= wide ? word[8*p +: 8] : narrow ? {6'd0, quarter[2*p +: 2]} : {4'd0, half[4*p +: 4]};
        end
    endgenerate
    assign o_ahead_x = d_x;
    // The first of the queue is a register.
    localparam Q = 10 * PORTS + 3 + TOKENS + XBITS;
    reg  [2:0]   head, tail;
    reg  [3:0]   count;  // of those behind the first
    reg          some;   // count != 0
    wire [Q-1:0] behind;
    wire [Q-1:0] decoded = {ENGINE == `AXL_ENGINE_TABLE ? value : index, negative, zero,
                            d_format == `AXL_FORMAT_CB4, d_format < `AXL_FORMAT_U2, d_clear, d_mask, d_x};
    wire         take = !o_valid || i_leave;
    wire         push = d_valid && (some || !take);
    wire         pop  = take && some;
    ram_lut #(.WIDTH(Q), .DEPTH(8)) u_queue (
        .i_clk(i_clk), .i_write(push), .i_write_address(tail), .i_write_data(decoded), .i_read_address(head),
        .o_read_data(behind));
    always @(posedge i_clk) begin
        {f_group, f_word_line, f_line, f_format, f_clear, f_mask} <= {s_group, s_word_line, s_line, s_format, s_clear, s_mask};
        {w_sub, w_format, w_clear, w_mask, w_ubuf} <= {f_sub, f_format, f_clear, f_mask, bank_line[15]};
        {d_format, d_clear, d_mask, d_x} <= {w_format, w_clear, w_mask, w_ubuf ? from_ubuf : from_abuf};
        if (take) {o_index, o_negative, o_zero, o_codebook, o_signed, o_clear, o_mask, o_x} <= some ? behind : decoded;
        if (i_rst) begin
            {f_valid, w_valid, d_valid, o_valid, some, taken} <= 6'd0;
            {head, tail, count, used} <= 14'd0;
            room <= 1'b1;
        end else begin
            {f_valid, w_valid, d_valid} <= {step, f_valid, w_valid};
            if (take) o_valid <= some || d_valid;
            head  <= head + {2'b00, pop};
            tail  <= tail + {2'b00, push};
            count <= count + {3'd0, push} - {3'd0, pop};
            some  <= push || (pop ? count != 4'd1 : some);
            taken <= take && (some || d_valid);
            used  <= used + {3'd0, step} - {3'd0, taken};
            room  <= taken || (step ? used < PLACES - 4'd1 : room);
        end
    end
endmodule
`default_nettype wire
