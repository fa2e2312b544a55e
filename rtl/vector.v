// From accumulators: VCFG and VOUT settings, the walk of VREQ and VQT, the element pipeline (stages 0..10, VPIPE = 10), results.
`default_nettype none
`include "axlora_isa.vh"
module vector #(
    parameter LANES = 8, parameter PORTS = 4, parameter TOKENS = 2, parameter VECTOR_LANES = 2, parameter BEAT_BYTES = 8,
    parameter ACTIVATION_BITS = 8, parameter ACCUMULATOR_BITS = 32, parameter ACC_WORDS = 1024, parameter PBUF_GROUPS = 512,
    parameter TBUF_TOKENS = 64, parameter OBUF_BEATS = 512, parameter UBUF_LINES = 64, parameter VBUF_WORDS = 512,
    parameter AADDR = $clog2(ACC_WORDS), parameter PADDR = $clog2(PBUF_GROUPS), parameter OADDR = $clog2(OBUF_BEATS),
    parameter UADDR = $clog2(UBUF_LINES), parameter VADDR = $clog2(VBUF_WORDS), parameter LLANE = $clog2(LANES), parameter LOGB = $clog2(BEAT_BYTES)
) (
    input  wire                       i_clk,
    input  wire                       i_rst,
    input  wire                       i_run,
    input  wire                       i_accept,
    input  wire [`AXL_ENTRY_BITS-1:0] i_entry,
    output wire                       o_single,
    output wire                       o_done,
    output wire [15:0]                o_tbuf_token,
    input  wire [31:0]                i_tbuf,
    input  wire [21:0]                i_row_token,
    input  wire [15:0]                i_pitch,
    output wire [AADDR-1:0]           o_acc_word,
    input  wire [TOKENS*PORTS*ACCUMULATOR_BITS-1:0] i_acc,
    output wire [PADDR-1:0]           o_pbuf_group,
    input  wire [64*PORTS-1:0]        i_pbuf,
    output wire [BEAT_BYTES-1:0]      o_obuf_write,
    output wire [OADDR-1:0]           o_obuf_beat,
    output wire [8*BEAT_BYTES-1:0]    o_obuf_data,
    output wire [TOKENS-1:0]          o_ubuf_write,
    output wire [UADDR-1:0]           o_ubuf_line,
    output wire [LLANE-1:0]           o_ubuf_lane,
    output wire [VECTOR_LANES*ACTIVATION_BITS-1:0] o_ubuf_data,
    output wire                       o_vbuf_write,
    output wire [VADDR-1:0]           o_vbuf_word,
    output wire [32*VECTOR_LANES-1:0] o_vbuf_data,
    output wire [3:0]                 o_error,
    output wire [2:0]                 o_elements,
    output wire [2:0]                 o_saturations
);
    localparam [16:0] A = ACC_WORDS[16:0], P = PBUF_GROUPS[16:0], T = TBUF_TOKENS[16:0];
    localparam TADDR = $clog2(TBUF_TOKENS);
    localparam integer MORE_VALUE = ACTIVATION_BITS - 1;
    localparam [4:0] MORE = MORE_VALUE[4:0];
    localparam integer MOST_VALUE = (1 << (ACTIVATION_BITS - 1)) - 1;
    localparam [31:0] MOST = MOST_VALUE[31:0];
    wire [5:0]  op   = i_entry[`AXL_ENTRY_OP];
    wire [16:0] misc = i_entry[`AXL_ENTRY_MISC];
    wire [31:0] x    = i_entry[`AXL_ENTRY_X];
    wire [15:0] y    = i_entry[`AXL_ENTRY_Y], z = i_entry[`AXL_ENTRY_Z];
    wire        unused_entry = &{1'b0, i_entry, misc};
    assign o_single = op == `AXL_OP_VCFG || op == `AXL_OP_VOUT;
    wire        begin_it = i_accept && !o_single;

    reg  [15:0] base_records, adapter_records, slot_stride, acc_step, zero_point, acc_base, token_base, destination;
    reg  [12:0] config_bits;
    reg  [1:0]  size;
    reg         to_vbuf, to_ubuf, quantize;
    initial begin
        {base_records, adapter_records, slot_stride, acc_step, zero_point} = 80'd0;
        {config_bits, size, to_vbuf, to_ubuf, quantize} = 18'd0;
    end
    always @(posedge i_clk) begin
        if (i_accept && op == `AXL_OP_VCFG) begin
            {adapter_records, base_records} <= x;
            slot_stride <= y;
            acc_step    <= z;
            config_bits <= misc[12:0];
        end
        if (i_accept && op == `AXL_OP_VOUT) {zero_point, to_vbuf, to_ubuf, size} <= {x[15:0], misc[3:0]};
        if (begin_it) begin
            {token_base, acc_base} <= x;
            destination <= y;
            quantize    <= op == `AXL_OP_VQT;
        end
    end
    wire [4:0]  guard      = config_bits[4:0];
    wire        adapter_on = config_bits[11];

    // Stage 0
    wire        step, check, element, first, second, walk2, fresh, latch;
    wire [2:0]  token;
    wire [3:0]  chunk;
    wire [3:0]  slot = i_tbuf[3:0];
    wire [15:0] column;
    vector_control #(.PORTS(PORTS), .VECTOR_LANES(VECTOR_LANES)) u_control (
        .i_clk(i_clk), .i_rst(i_rst), .i_run(i_run), .i_begin(begin_it), .i_quantize(op == `AXL_OP_VQT), .i_two(adapter_on),
        .i_last_token(misc[2:0]), .i_columns(z), .i_only(misc[6:3]), .i_slot(slot), .o_done(o_done), .o_step(step),
        .o_token_check(check), .o_element(element), .o_read_first(first), .o_read_second(second), .o_token(token),
        .o_column(column), .o_chunk(chunk), .o_second(walk2), .o_fresh(fresh), .o_latch(latch));
    wire        adapter     = adapter_on && !quantize && slot != 4'd0;
    wire [15:0] which       = {12'd0, slot} - 16'd1;
    wire [15:0] acc_word    = acc_base + column + (second ? acc_step : 16'd0);
    wire [15:0] pbuf_group  = column + (second ? adapter_records + which * slot_stride : base_records);
    wire        reads       = first || (second && adapter);
    assign o_tbuf_token = token_base + {13'd0, token};
    assign o_acc_word   = acc_word[AADDR-1:0];
    assign o_pbuf_group = pbuf_group[PADDR-1:0];
    wire [OADDR-1:0] beat;
    wire [LOGB-1:0]  byte_at;
    wire [UADDR-1:0] line;
    wire [LLANE-1:0] lane;
    wire             outside_obuf, outside_ubuf;
    wire             into_ubuf = quantize || to_ubuf;
    wire             into_vbuf = !quantize && to_vbuf;
    localparam       LOGC = $clog2(PORTS / VECTOR_LANES);
    localparam [31:0] W = VBUF_WORDS[31:0];
    wire [31:0]      vbuf_word = {16'd0, destination} + {29'd0, token} * {16'd0, i_pitch} + ({16'd0, column} << LOGC)
                                 + {28'd0, chunk};
    wire             writes    = element && (!quantize || walk2);
    vector_place #(.LANES(LANES), .PORTS(PORTS), .TOKENS(TOKENS), .VECTOR_LANES(VECTOR_LANES), .BEAT_BYTES(BEAT_BYTES),
                   .OBUF_BEATS(OBUF_BEATS), .UBUF_LINES(UBUF_LINES)) u_place (
        .i_column(column), .i_chunk(chunk), .i_token(token), .i_base(destination), .i_size(size), .o_beat(beat),
        .o_byte(byte_at), .o_line(line), .o_lane(lane), .o_outside_obuf(outside_obuf), .o_outside_ubuf(outside_ubuf));
    wire outside = (check && {1'b0, o_tbuf_token} >= T) || (reads && ({1'b0, acc_word} >= A || {1'b0, pbuf_group} >= P))
                   || (writes && (into_vbuf ? vbuf_word >= W : into_ubuf ? outside_ubuf : outside_obuf));
    assign o_error = i_run && outside ? `AXL_ERROR_LOCAL_ADDRESS : `AXL_ERROR_NONE;

    // The token's block exponent: found in the first walk, kept for VREQ.
    reg  [31:0] largest, candidate;
    reg  [4:0]  exponent, exponent_next;
    wire [4:0]  kept_exponent;
    ram_lut #(.WIDTH(5), .DEPTH(TBUF_TOKENS)) u_exponents (
        .i_clk(i_clk), .i_write(latch), .i_write_address(o_tbuf_token[TADDR-1:0]), .i_write_data(exponent_next),
        .i_read_address(o_tbuf_token[TADDR-1:0]), .o_read_data(kept_exponent));

    // Stages 4 and 10
    wire [VECTOR_LANES*ACCUMULATOR_BITS-1:0] acc1, acc2;
    wire [64*VECTOR_LANES-1:0] record;
    wire [6*VECTOR_LANES-1:0]  shift;
    vector_operands #(.PORTS(PORTS), .TOKENS(TOKENS), .VECTOR_LANES(VECTOR_LANES), .BITS(ACCUMULATOR_BITS)) u_operands (
        .i_clk(i_clk), .i_first(first), .i_token(token), .i_chunk(chunk), .i_adapter(adapter), .i_acc(i_acc),
        .i_records(i_pbuf), .o_acc1(acc1), .o_acc2(acc2), .o_record(record), .o_shift(shift));
    wire        adapter4, element7, writes10;
    wire [4:0]  exponent4;
    wire [15:0] mantissa4;
    wire [5:0]  token_shift4;
    wire [2:0]  token10;
    wire [OADDR-1:0] beat10;
    wire [LOGB-1:0]  byte10;
    wire             looks = element && quantize && !walk2;
    delay #(.WIDTH(28), .STAGES(4)) u_token4 (
        .i_clk(i_clk), .i_data({adapter, kept_exponent, config_bits[12] ? i_row_token : i_tbuf[31:10]}),
        .o_data({adapter4, exponent4, mantissa4, token_shift4}));
    delay #(.WIDTH(1), .STAGES(7)) u_looks7 (.i_clk(i_clk), .i_data(looks && !i_rst), .o_data(element7));
    delay #(.WIDTH(4 + OADDR + LOGB + UADDR + LLANE + VADDR), .STAGES(10)) u_place10 (
        .i_clk(i_clk), .i_data({writes && !i_rst && !outside, token, beat, byte_at, line, lane, vbuf_word[VADDR-1:0]}),
        .o_data({writes10, token10, beat10, byte10, o_ubuf_line, o_ubuf_lane, o_vbuf_word}));

    wire [31:0] high = into_ubuf ? MOST : size == 2'd0 ? 32'h7f : size == 2'd1 ? 32'h7fff : 32'h7fffffff;
    wire [31:0] low  = quantize ? 32'd0 - MOST : ~high;
    wire [32*VECTOR_LANES-1:0] magnitudes, results;
    wire [VECTOR_LANES-1:0]    changed;
    genvar v;
    generate
        for (v = 0; v < VECTOR_LANES; v = v + 1) begin : g_element
            wire [63:0] own = record[64*v +: 64];
            vector_element #(.BITS(ACCUMULATOR_BITS)) u_element (
                .i_clk(i_clk), .i_acc1(acc1[ACCUMULATOR_BITS*v +: ACCUMULATOR_BITS]),
                .i_acc2(acc2[ACCUMULATOR_BITS*v +: ACCUMULATOR_BITS]), .i_bias(own[31:0]), .i_m1(own[47:32]), .i_m2(own[63:48]),
                .i_shift(shift[6*v +: 6]), .i_adapter(adapter4), .i_exponent(exponent4), .i_mantissa(mantissa4),
                .i_token_shift(token_shift4), .i_quantize(quantize), .i_bias_end(config_bits[6]),
                .i_bias_shift(config_bits[10:7]), .i_token_scale(config_bits[5]), .i_guard(quantize ? exponent : guard),
                .i_zero_point(quantize ? 16'd0 : zero_point), .i_low(low), .i_high(high),
                .o_magnitude(magnitudes[32*v +: 32]), .o_result(results[32*v +: 32]), .o_changed(changed[v]));
            assign o_ubuf_data[ACTIVATION_BITS*v +: ACTIVATION_BITS] = results[32*v +: ACTIVATION_BITS];
        end
    endgenerate
    integer n;
    always @* begin
        candidate = largest;
        for (n = 0; n < VECTOR_LANES; n = n + 1)
            if (magnitudes[32*n +: 32] > candidate) candidate = magnitudes[32*n +: 32];
        exponent_next = 5'd0;
        for (n = ACTIVATION_BITS; n < 32; n = n + 1)
            if (largest[n-1]) exponent_next = n[4:0] - MORE;
    end
    always @(posedge i_clk) begin
        if (fresh) largest <= 32'd0;
        else if (element7) largest <= candidate;
        if (latch) exponent <= exponent_next;
    end
    vector_output #(.PORTS(PORTS), .VECTOR_LANES(VECTOR_LANES), .BEAT_BYTES(BEAT_BYTES)) u_output (
        .i_valid(writes10 && !into_ubuf && !into_vbuf), .i_tiled(1'b0), .i_size(size), .i_byte(byte10), .i_results(results),
        .o_write(o_obuf_write), .o_data(o_obuf_data));
    assign o_obuf_beat  = beat10;
    assign o_vbuf_write = writes10 && into_vbuf;
    assign o_vbuf_data  = results;
    assign o_ubuf_write = writes10 && into_ubuf ? {{(TOKENS-1){1'b0}}, 1'b1} << token10 : {TOKENS{1'b0}};
    assign o_elements   = writes10 ? VECTOR_LANES[2:0] : 3'd0;
    wire [2:0] clamps;
    popcount #(.WIDTH(VECTOR_LANES), .OUT(3)) u_clamps (.i_bits(changed), .o_count(clamps));
    assign o_saturations = writes10 ? clamps : 3'd0;
    wire unused_bits = &{1'b0, step, acc_word, pbuf_group, i_tbuf[9:4], vbuf_word};
endmodule
`default_nettype wire
