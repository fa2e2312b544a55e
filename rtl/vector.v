// From accumulators: VCFG and VOUT settings, the walk of VREQ and VQT, the element pipeline (stages 0..VPIPE), results.
`default_nettype none
`include "axlora_isa.vh"
module vector #(
    parameter LANES = 8, parameter PORTS = 4, parameter TOKENS = 2, parameter VECTOR_LANES = 2, parameter BEAT_BYTES = 8,
    parameter ACTIVATION_BITS = 8, parameter ACCUMULATOR_BITS = 32, parameter ACC_WORDS = 1024, parameter PBUF_GROUPS = 512,
    parameter TBUF_TOKENS = 64, parameter OBUF_BEATS = 512, parameter UBUF_LINES = 64, parameter VBUF_WORDS = 512,
    parameter AADDR = $clog2(ACC_WORDS), parameter PADDR = $clog2(PBUF_GROUPS), parameter OADDR = $clog2(OBUF_BEATS),
    parameter UADDR = $clog2(UBUF_LINES), parameter VADDR = $clog2(VBUF_WORDS), parameter LLANE = $clog2(LANES), parameter LOGB = $clog2(BEAT_BYTES),
    parameter OUT_BYTES = 4 * VECTOR_LANES > BEAT_BYTES ? 4 * VECTOR_LANES : BEAT_BYTES
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
    input  wire [15:0]                i_bank_acc,
    input  wire [15:0]                i_bank,
    output wire [AADDR-1:0]           o_acc_word,
    input  wire [TOKENS*PORTS*ACCUMULATOR_BITS-1:0] i_acc,
    output wire [PADDR-1:0]           o_pbuf_group,
    input  wire [64*PORTS-1:0]        i_pbuf,
    output wire [OUT_BYTES-1:0]       o_obuf_write,
    output wire [OADDR-1:0]           o_obuf_beat,
    output wire [8*OUT_BYTES-1:0]     o_obuf_data,
    output wire [TOKENS-1:0]          o_ubuf_write,
    output wire [UADDR-1:0]           o_ubuf_line,
    output wire [LLANE-1:0]           o_ubuf_lane,
    output wire [VECTOR_LANES*ACTIVATION_BITS-1:0] o_ubuf_data,
    output wire                       o_vbuf_write,
    output wire [VADDR-1:0]           o_vbuf_word,
    output wire [32*VECTOR_LANES-1:0] o_vbuf_data,
    output wire [3:0]                 o_error,
    output wire [4:0]                 o_elements,
    output wire [4:0]                 o_saturations
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
    reg  [4:0]  guard;
    reg  [3:0]  bias_shift;
    reg         token_scale, bias_end, adapter_on, row_scale;
    reg  [1:0]  size;
    reg         to_vbuf, to_ubuf, quantize;
    initial begin
        {base_records, adapter_records, slot_stride, acc_step, zero_point} = 80'd0;
        {guard, bias_shift, token_scale, bias_end, adapter_on, row_scale} = 13'd0;
        {size, to_vbuf, to_ubuf, quantize} = 5'd0;
    end
    wire        bank_end;
    reg         bank_end1;
    wire [2:0]  token;
    always @(posedge i_clk) begin
        if (i_accept && op == `AXL_OP_VCFG) begin
            base_records    <= x[`AXL_VCFG_BASE];
            adapter_records <= x[`AXL_VCFG_ADAPTERS];
            slot_stride     <= y;
            acc_step        <= z;
            guard           <= misc[`AXL_VCFG_GUARD];
            bias_shift      <= misc[`AXL_VCFG_BIAS_SHIFT];
            token_scale     <= misc[`AXL_VCFG_TOKEN_SCALE];
            bias_end        <= misc[`AXL_VCFG_BIAS_END];
            adapter_on      <= misc[`AXL_VCFG_ADAPTER];
            row_scale       <= misc[`AXL_VCFG_ROW_SCALE];
        end
        if (i_accept && op == `AXL_OP_VOUT) begin
            zero_point <= x[`AXL_VOUT_ZERO_POINT];
            size       <= misc[`AXL_VOUT_SIZE];
            to_ubuf    <= misc[`AXL_VOUT_UBUF];
            to_vbuf    <= misc[`AXL_VOUT_VBUF];
        end
        if (begin_it) begin  // VREQ and VQT have these at the same places
            acc_base    <= x[`AXL_VREQ_ACC];
            token_base  <= x[`AXL_VREQ_TOKEN];
            destination <= y;
            quantize    <= op == `AXL_OP_VQT;
        end else begin
            if (bank_end) token_base <= token_base + {13'd0, token} + 16'd1;
            if (bank_end1) {acc_base, destination} <= {acc_base + i_bank_acc, destination + i_bank};
        end
    end

    // Stage 0: the token's word and the exponent kept for it are looked up.
    wire        check, element, first, second, walk2, fresh, latch;
    wire [3:0]  chunk;
    wire [15:0] column;
    reg  [3:0]  slot1;
    vector_control #(.PORTS(PORTS), .VECTOR_LANES(VECTOR_LANES)) u_control (
        .i_clk(i_clk), .i_rst(i_rst), .i_run(i_run), .i_begin(begin_it), .i_quantize(op == `AXL_OP_VQT), .i_two(adapter_on),
        .i_last_token(misc[`AXL_VREQ_TOKENS]), .i_last_bank(misc[`AXL_VREQ_BANKS]), .i_columns(z), .i_only(misc[`AXL_VQT_SLOT]), .i_slot(slot1), .o_done(o_done),
        .o_token_check(check), .o_element(element), .o_read_first(first), .o_read_second(second), .o_token(token),
        .o_column(column), .o_chunk(chunk), .o_second(walk2), .o_bank_end(bank_end), .o_fresh(fresh), .o_latch(latch));
    assign o_tbuf_token = token_base + {13'd0, token};
    wire [4:0]  kept_exponent;
    reg  [4:0]  exponent;
    wire [4:0]  exponent_next;
    ram_lut #(.WIDTH(5), .DEPTH(TBUF_TOKENS)) u_exponents (
        .i_clk(i_clk), .i_write(latch), .i_write_address(o_tbuf_token[TADDR-1:0]), .i_write_data(exponent_next),
        .i_read_address(o_tbuf_token[TADDR-1:0]), .o_read_data(kept_exponent));

    // Stage 1: where the results go, and the terms of the read addresses
    localparam LOGC = $clog2(PORTS / VECTOR_LANES);
    reg         check1, element1, first1, second1, walk2_1;
    reg  [2:0]  token1;
    reg  [3:0]  chunk1;
    reg  [4:0]  exponent1;
    reg  [15:0] column1, tbuf_token1;
    reg  [21:0] token_word1;
    wire        adapter1 = adapter_on && !quantize && slot1 != 4'd0;
    wire [15:0] which1   = {12'd0, slot1} - 16'd1;
    wire [OADDR-1:0] beat1;
    wire [LOGB-1:0]  byte1;
    wire [UADDR-1:0] line1;
    wire [LLANE-1:0] lane1;
    wire             outside_obuf1, outside_ubuf1;
    vector_place #(.LANES(LANES), .PORTS(PORTS), .TOKENS(TOKENS), .VECTOR_LANES(VECTOR_LANES), .BEAT_BYTES(BEAT_BYTES),
                   .OBUF_BEATS(OBUF_BEATS), .UBUF_LINES(UBUF_LINES)) u_place (
        .i_column(column1), .i_chunk(chunk1), .i_token(token1), .i_base(destination), .i_size(size), .o_beat(beat1),
        .o_byte(byte1), .o_line(line1), .o_lane(lane1), .o_outside_obuf(outside_obuf1), .o_outside_ubuf(outside_ubuf1));

    // Stages 2 and 3: addresses; 3 reads
    wire             into_ubuf = quantize || to_ubuf;
    wire             into_vbuf = !quantize && to_vbuf;
    reg         check2, check3, first2, first3, second2, reads3, element2, element3, walk2_2, walk2_3, adapter2, adapter3;
    reg         outside_obuf2, outside_ubuf2, outside_place3;
    reg  [2:0]  token2, token3;
    reg  [3:0]  chunk2, chunk3;
    reg  [15:0] tbuf_token2, tbuf_token3, base_word2, acc_word3, record2, adapter_record2, slot_offset2, pbuf_group3;
    reg  [31:0] vbuf_start2, vbuf_row2, vbuf_word3;
    reg  [OADDR-1:0] beat2, beat3;
    reg  [LOGB-1:0]  byte2, byte3;
    reg  [UADDR-1:0] line2, line3;
    reg  [LLANE-1:0] lane2, lane3;
    always @(posedge i_clk) begin
        {first1, second1, walk2_1, token1, chunk1, column1, tbuf_token1}
            <= {first, second, walk2, token, chunk, column, o_tbuf_token};
        {exponent1, slot1, token_word1} <= {kept_exponent, i_tbuf[3:0], row_scale ? i_row_token : i_tbuf[31:10]};
        {bank_end1, check1, element1} <= {bank_end && !i_rst, check && !i_rst, element && !i_rst};

        {first2, second2, walk2_2, token2, chunk2, tbuf_token2} <= {first1, second1, walk2_1, token1, chunk1, tbuf_token1};
        {check2, element2, adapter2} <= {check1 && !i_rst, element1 && !i_rst, adapter1};
        base_word2      <= acc_base + column1;
        record2         <= base_records + column1;
        adapter_record2 <= adapter_records + column1;
        slot_offset2    <= which1 * slot_stride;
        vbuf_start2     <= {16'd0, destination} + ({16'd0, column1} << LOGC) + {28'd0, chunk1};
        vbuf_row2       <= {29'd0, token1} * {16'd0, i_pitch};
        {beat2, byte2, line2, lane2, outside_obuf2, outside_ubuf2}
            <= {beat1, byte1, line1, lane1, outside_obuf1, outside_ubuf1};

        {first3, walk2_3, token3, chunk3, tbuf_token3, adapter3} <= {first2, walk2_2, token2, chunk2, tbuf_token2, adapter2};
        {check3, element3} <= {check2 && !i_rst, element2 && !i_rst};
        acc_word3      <= base_word2 + (second2 ? acc_step : 16'd0);
        pbuf_group3    <= second2 ? adapter_record2 + slot_offset2 : record2;
        reads3         <= (first2 || (second2 && adapter2)) && !i_rst;
        vbuf_word3     <= vbuf_start2 + vbuf_row2;
        outside_place3 <= into_ubuf ? outside_ubuf2 : outside_obuf2;
        {beat3, byte3, line3, lane3} <= {beat2, byte2, line2, lane2};
    end
    localparam [31:0] W = VBUF_WORDS[31:0];
    assign o_acc_word   = acc_word3[AADDR-1:0];
    assign o_pbuf_group = pbuf_group3[PADDR-1:0];
    wire writes  = element3 && (!quantize || walk2_3);
    wire outside = (check3 && {1'b0, tbuf_token3} >= T) || (reads3 && ({1'b0, acc_word3} >= A || {1'b0, pbuf_group3} >= P))
                   || (writes && (into_vbuf ? vbuf_word3 >= W : outside_place3));
    assign o_error = i_run && outside ? `AXL_ERROR_LOCAL_ADDRESS : `AXL_ERROR_NONE;

    // The token's block exponent: found in the first walk, kept for VREQ.
    reg  [31:0] largest;
    reg         upper, none;
    reg  [15:0] half;
    wire [4:0]  top;
    reg  [5:0]  length;
    top_bit u_top (.i_value({16'd0, half}), .o_at(top));
    wire        unused_top = &{1'b0, top[4]};
    assign exponent_next = length > {1'b0, MORE} ? length[4:0] - MORE : 5'd0;

    // Stages 7, 15 (magnitudes; the largest of a word at 15 + LEVELS) and 23 (results)
    wire [VECTOR_LANES*ACCUMULATOR_BITS-1:0] acc1, acc2;
    wire [64*VECTOR_LANES-1:0] record;
    wire [6*VECTOR_LANES-1:0]  shift;
    vector_operands #(.PORTS(PORTS), .TOKENS(TOKENS), .VECTOR_LANES(VECTOR_LANES), .BITS(ACCUMULATOR_BITS)) u_operands (
        .i_clk(i_clk), .i_first(first3), .i_token(token3), .i_chunk(chunk3), .i_adapter(adapter3), .i_acc(i_acc),
        .i_records(i_pbuf), .o_acc1(acc1), .o_acc2(acc2), .o_record(record), .o_shift(shift));
    localparam LEVELS = $clog2(VECTOR_LANES);
    wire        adapter7, magnitude, writes23;
    wire [4:0]  exponent7;
    wire [15:0] mantissa7;
    wire [5:0]  token_shift7;
    wire [2:0]  token23;
    wire [OADDR-1:0] beat23;
    wire [LOGB-1:0]  byte23;
    delay #(.WIDTH(1), .STAGES(4)) u_adapter7 (.i_clk(i_clk), .i_data(adapter3), .o_data(adapter7));
    delay #(.WIDTH(27), .STAGES(6)) u_token7 (
        .i_clk(i_clk), .i_data({exponent1, token_word1}), .o_data({exponent7, mantissa7, token_shift7}));
    delay #(.WIDTH(1), .STAGES(12 + LEVELS)) u_magnitude (
        .i_clk(i_clk), .i_data(element3 && quantize && !walk2_3 && !i_rst), .o_data(magnitude));
    delay #(.WIDTH(4 + OADDR + LOGB + UADDR + LLANE + VADDR), .STAGES(20)) u_place23 (
        .i_clk(i_clk), .i_data({writes && !i_rst && !outside, token3, beat3, byte3, line3, lane3, vbuf_word3[VADDR-1:0]}),
        .o_data({writes23, token23, beat23, byte23, o_ubuf_line, o_ubuf_lane, o_vbuf_word}));

    reg  [31:0] high, low;  // the same from an instruction's second cycle on
    wire [31:0] most = into_ubuf ? MOST : size == 2'd0 ? 32'h7f : size == 2'd1 ? 32'h7fff : 32'h7fffffff;
    always @(posedge i_clk) {high, low} <= {most, quantize ? 32'd0 - MOST : ~most};
    wire [32*VECTOR_LANES-1:0] magnitudes, results;
    wire [VECTOR_LANES-1:0]    changed;
    genvar v;
    generate
        for (v = 0; v < VECTOR_LANES; v = v + 1) begin : g_element
            wire [63:0] own = record[64*v +: 64];
            vector_element #(.BITS(ACCUMULATOR_BITS)) u_element (
                .i_clk(i_clk), .i_acc1(acc1[ACCUMULATOR_BITS*v +: ACCUMULATOR_BITS]),
                .i_acc2(acc2[ACCUMULATOR_BITS*v +: ACCUMULATOR_BITS]), .i_bias(own[31:0]), .i_m1(own[47:32]), .i_m2(own[63:48]),
                .i_shift(shift[6*v +: 6]), .i_adapter(adapter7), .i_exponent(exponent7), .i_mantissa(mantissa7),
                .i_token_shift(token_shift7), .i_quantize(quantize), .i_bias_end(bias_end),
                .i_bias_shift(bias_shift), .i_token_scale(token_scale), .i_guard(quantize ? exponent : guard),
                .i_zero_point(quantize ? 16'd0 : zero_point), .i_low(low), .i_high(high),
                .o_magnitude(magnitudes[32*v +: 32]), .o_result(results[32*v +: 32]), .o_changed(changed[v]));
            assign o_ubuf_data[ACTIVATION_BITS*v +: ACTIVATION_BITS] = results[32*v +: ACTIVATION_BITS];
        end
    endgenerate
    // The largest magnitude of a word, two by two, a level a cycle: leaves are V..2V-1, node n is of 2n and 2n+1.
    wire [32*2*VECTOR_LANES-1:0] node;
    wire                         unused_node = &{1'b0, node[31:0]};
    assign node[31:0] = 32'd0;
    assign node[32*2*VECTOR_LANES-1 -: 32*VECTOR_LANES] = magnitudes;
    generate
        for (v = 1; v < VECTOR_LANES; v = v + 1) begin : g_larger
            wire [31:0] one = node[32*(2*v) +: 32], two = node[32*(2*v+1) +: 32];
            reg  [31:0] larger;
            always @(posedge i_clk) larger <= one > two ? one : two;
            assign node[32*v +: 32] = larger;
        end
    endgenerate
    always @(posedge i_clk) begin
        if (fresh) largest <= 32'd0;
        else if (magnitude && node[63:32] > largest) largest <= node[63:32];
        {upper, none} <= {largest[31:16] != 16'd0, largest == 32'd0};
        half   <= largest[31:16] != 16'd0 ? largest[31:16] : largest[15:0];
        length <= none ? 6'd0 : {1'b0, upper, top[3:0]} + 6'd1;
        if (latch) exponent <= exponent_next;
    end
    vector_output #(.PORTS(PORTS), .VECTOR_LANES(VECTOR_LANES), .BEAT_BYTES(BEAT_BYTES)) u_output (
        .i_valid(writes23 && !into_ubuf && !into_vbuf), .i_tiled(1'b0), .i_size(size), .i_byte(byte23), .i_results(results),
        .o_write(o_obuf_write), .o_data(o_obuf_data));
    assign o_obuf_beat  = beat23;
    assign o_vbuf_write = writes23 && into_vbuf;
    assign o_vbuf_data  = results;
    assign o_ubuf_write = writes23 && into_ubuf ? {{(TOKENS-1){1'b0}}, 1'b1} << token23 : {TOKENS{1'b0}};
    assign o_elements   = writes23 ? VECTOR_LANES[4:0] : 5'd0;
    wire [4:0] clamps;
    popcount #(.WIDTH(VECTOR_LANES), .OUT(5)) u_clamps (.i_bits(changed), .o_count(clamps));
    assign o_saturations = writes23 ? clamps : 5'd0;
    wire unused_bits = &{1'b0, acc_word3, pbuf_group3, i_tbuf[9:4], vbuf_word3};
endmodule
`default_nettype wire
