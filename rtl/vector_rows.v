// The row side of the vector unit: settings, CBUF, VBUF and the tables, the walk of VMAP (a word a cycle), its reductions, and
// the scalars that VROW makes of them. Stages as in vector_map.v; stage 0 gives the addresses.
`default_nettype none
`include "axlora_isa.vh"
module vector_rows #(
    parameter LANES = 8, parameter PORTS = 4, parameter TOKENS = 2, parameter VECTOR_LANES = 2, parameter BEAT_BYTES = 8,
    parameter ACTIVATION_BITS = 8, parameter TBUF_TOKENS = 64, parameter OBUF_BEATS = 512, parameter UBUF_LINES = 64,
    parameter CBUF_WORDS = 512, parameter VBUF_WORDS = 512, parameter TABLE_ENTRIES = 512,
    parameter OADDR = $clog2(OBUF_BEATS), parameter UADDR = $clog2(UBUF_LINES), parameter CADDR = $clog2(CBUF_WORDS),
    parameter VADDR = $clog2(VBUF_WORDS), parameter FADDR = $clog2(TABLE_ENTRIES), parameter TADDR = $clog2(TBUF_TOKENS),
    parameter LLANE = $clog2(LANES), parameter LOGB = $clog2(BEAT_BYTES),
    parameter OUT_BYTES = 4 * VECTOR_LANES > BEAT_BYTES ? 4 * VECTOR_LANES : BEAT_BYTES
) (
    input  wire                       i_clk,
    input  wire                       i_rst,
    input  wire                       i_run,
    input  wire                       i_accept,
    input  wire [`AXL_ENTRY_BITS-1:0] i_entry,
    output wire                       o_single,
    output wire                       o_done,
    output wire [15:0]                o_pitch,
    output wire [15:0]                o_bank_acc,
    output wire [15:0]                o_bank,
    input  wire                       i_cbuf_write,
    input  wire                       i_table_write,
    input  wire [20:0]                i_write_beat,
    input  wire [8*BEAT_BYTES-1:0]    i_write_data,
    input  wire                       i_vbuf_write,
    input  wire [VADDR-1:0]           i_vbuf_word,
    input  wire [32*VECTOR_LANES-1:0] i_vbuf_data,
    input  wire [TADDR-1:0]           i_token,
    output wire [21:0]                o_row_token,
    output wire [OUT_BYTES-1:0]       o_obuf_write,
    output wire [OADDR-1:0]           o_obuf_beat,
    output wire [8*OUT_BYTES-1:0]     o_obuf_data,
    output wire [TOKENS-1:0]          o_ubuf_write,
    output wire [UADDR-1:0]           o_ubuf_line,
    output wire [LLANE-1:0]           o_ubuf_lane,
    output wire [VECTOR_LANES*ACTIVATION_BITS-1:0] o_ubuf_data,
    output wire [3:0]                 o_error,
    output wire [4:0]                 o_elements,
    output wire [4:0]                 o_saturations
);
    localparam LOGV = $clog2(VECTOR_LANES), LOGP = $clog2(PORTS);
    localparam integer PORTS_LAST = PORTS - 1, TOKENS_LAST = TOKENS - 1;
    localparam [31:0] C = CBUF_WORDS[31:0], V = VBUF_WORDS[31:0], F = TABLE_ENTRIES[31:0], T = TBUF_TOKENS[31:0];
    localparam [31:0] O = OBUF_BEATS[31:0], U = UBUF_LINES[31:0], INSIDE = PORTS_LAST[31:0];
    wire [5:0]  op   = i_entry[`AXL_ENTRY_OP];
    wire [5:0]  sub  = i_entry[`AXL_ENTRY_SUB];
    wire [16:0] misc = i_entry[`AXL_ENTRY_MISC];
    wire [31:0] x    = i_entry[`AXL_ENTRY_X];
    wire [15:0] y    = i_entry[`AXL_ENTRY_Y], z = i_entry[`AXL_ENTRY_Z];
    wire [5:0]  table_step = misc[`AXL_VTAB_STEP];
    wire        unused_entry = &{1'b0, i_entry, sub, misc, table_step};
    assign o_single = op != `AXL_OP_VMAP && op != `AXL_OP_VROW;
    wire        begin_map = i_accept && op == `AXL_OP_VMAP, begin_row = i_accept && op == `AXL_OP_VROW;

    reg  [31:0] valid, low;
    reg         step_valid, map;
    reg  [15:0] pitch_a, pitch_b, pitch, ca, cb, first, last, operand_a, operand_b, words, destination, token_base;
    reg  [5:0]  shift, slope_shift;
    reg  [4:0]  interval_step;
    reg  [1:0]  kind, reduction, into, size, scale, less, scalar_place;
    reg  [5:0]  last_row;
    reg  [2:0]  last_in_bank;
    reg  [15:0] bank_a, bank_b, bank;
    reg         subtract, tiled, shared, write_value;
    initial begin
        {valid, step_valid, low, pitch_a, pitch_b, pitch, ca, cb, first, last} = {33'd0, 32'd0, 112'd0};
        {shift, slope_shift, interval_step} = 17'd0;
        {bank_a, bank_b, bank, last_in_bank} = {48'd0, TOKENS_LAST[2:0]};
    end
    always @(posedge i_clk) begin
        if (i_accept)
            case (op)
                `AXL_OP_VLEN: begin
                    valid      <= x;
                    step_valid <= misc[`AXL_VLEN_STEP];
                end
                `AXL_OP_VPITCH: begin
                    pitch_a <= x[`AXL_VPITCH_A];
                    pitch_b <= x[`AXL_VPITCH_B];
                    pitch   <= y;
                end
                `AXL_OP_VBANK: begin
                    bank_a       <= x[`AXL_VBANK_A];
                    bank_b       <= x[`AXL_VBANK_B];
                    bank         <= y;
                    last_in_bank <= misc[`AXL_VBANK_ROWS];
                end
                `AXL_OP_VCON: begin
                    ca    <= x[`AXL_VCON_CA];
                    cb    <= x[`AXL_VCON_CB];
                    shift <= y[`AXL_VCON_SHIFT];
                end
                `AXL_OP_VTAB: begin
                    low           <= x;
                    first         <= y;
                    last          <= z;
                    interval_step <= table_step[4:0];
                    slope_shift   <= misc[`AXL_VTAB_SHIFT];
                end
                default: begin
                    map          <= op == `AXL_OP_VMAP;
                    destination  <= y;
                    words        <= z;
                    kind         <= sub[`AXL_VMAP_FUNCTION];
                    reduction    <= sub[`AXL_VMAP_REDUCE];
                    operand_a    <= x[`AXL_VMAP_A];
                    operand_b    <= x[`AXL_VMAP_B];
                    last_row     <= misc[`AXL_VMAP_ROWS];
                    into         <= misc[`AXL_VMAP_INTO];
                    size         <= misc[`AXL_VMAP_SIZE];
                    scale        <= misc[`AXL_VMAP_SCALE];
                    less         <= misc[`AXL_VMAP_LESS];
                    subtract     <= misc[`AXL_VMAP_SUBTRACT];
                    tiled        <= misc[`AXL_VMAP_TILED];
                    shared       <= misc[`AXL_VMAP_SHARED];
                    scalar_place <= misc[`AXL_VROW_SCALAR];
                    write_value  <= misc[`AXL_VROW_WRITE];
                    token_base   <= x[`AXL_VROW_ADD];
                end
            endcase
    end
    assign {o_pitch, o_bank_acc, o_bank} = {pitch, bank_a, bank};
    wire       two    = kind == `AXL_MAP_MAC || kind == `AXL_MAP_MUL;

    // Stage 0: the walk
    localparam [4:0] LEVELS = LOGV[4:0], REDUCED = `AXL_REDUCE_PIPE + LEVELS;
    wire [4:0] pipe = reduction == `AXL_REDUCE_NONE ? `AXL_MAP_PIPE : REDUCED;
    wire        walk, row_end, bank_end, map_done;
    wire [5:0]  row;
    wire [2:0]  in_bank;
    wire [15:0] word;
    vector_walk u_walk (
        .i_clk(i_clk), .i_rst(i_rst), .i_run(i_run), .i_begin(begin_map), .i_empty(z == 16'd0), .i_last_row(last_row),
        .i_last_in_bank(last_in_bank), .i_words(words), .i_pipe(pipe), .o_walk(walk), .o_row_end(row_end), .o_bank_end(bank_end),
        .o_row(row), .o_in_bank(in_bank), .o_word(word), .o_done(map_done));
    // Where the row and its bank begin: a pitch further than the row before, or as far from the bank before as banks are apart.
    reg  [31:0] row_a, row_b, row_to, first_a, first_b, first_to;
    wire [31:0] next_a = first_a + {16'd0, bank_a}, next_b = first_b + {16'd0, bank_b}, next_to = first_to + {16'd0, bank};
    always @(posedge i_clk)
        if (begin_map) begin
            {row_a, row_b, row_to}       <= 96'd0;
            {first_a, first_b, first_to} <= 96'd0;
        end else if (walk && row_end && i_run) begin
            row_a  <= bank_end ? next_a : row_a + {16'd0, pitch_a};
            row_b  <= bank_end ? next_b : row_b + {16'd0, pitch_b};
            row_to <= bank_end ? next_to : row_to + {16'd0, pitch};
            if (bank_end) {first_a, first_b, first_to} <= {next_a, next_b, next_to};
        end
    // Stage 1: the walk is registered. Stage 2: addresses; operands are read.
    reg         walk1, walk2, end1, end2;
    reg  [5:0]  row1, row2;
    reg  [2:0]  in_bank1, in_bank2;
    reg  [15:0] word1, word2;
    reg  [31:0] row_a1, row_b1, row_to1, first_to1, at_a2, at_b2, place2, n2;
    wire [31:0] wide_word1 = {16'd0, word1};
    wire [31:0] n1       = wide_word1 << LOGV;
    wire [31:0] bytes1   = n1 << size;
    wire [31:0] start1   = {16'd0, destination} + row_to1;
    always @(posedge i_clk) begin
        {walk1, walk2} <= i_rst ? 2'b00 : {walk, walk1};
        {end1, row1, in_bank1, word1}         <= {row_end, row, in_bank, word};
        {end2, row2, in_bank2, word2}         <= {end1, row1, in_bank1, word1};
        {row_a1, row_b1, row_to1, first_to1} <= {row_a, row_b, row_to, first_to};
        at_a2   <= {17'd0, operand_a[14:0]} + row_a1 + wide_word1;
        at_b2   <= {17'd0, operand_b[14:0]} + row_b1 + wide_word1;
        n2      <= n1;
        place2  <= into == `AXL_INTO_VBUF ? start1 + wide_word1
                 : into == `AXL_INTO_UBUF ? {17'd0, destination[14:0]} + first_to1 + (n1 >> LLANE)
                 : start1 + (tiled ? n1 >> LOGP : bytes1 >> LOGB);
    end
    wire [31:0] offset2 = tiled ? n2 & INSIDE : n2 << size;
    wire [31:0] bound   = into == `AXL_INTO_VBUF ? V : into == `AXL_INTO_UBUF ? U : O;
    // Beats of OBUF behind the first that a word's elements fill
    wire [31:0] word_beats = VECTOR_LANES << size >> LOGB;
    wire [31:0] beats_more = into == `AXL_INTO_OBUF && word_beats > 32'd1 ? word_beats - 32'd1 : 32'd0;
    wire        outside_a = at_a2 >= (operand_a[15] ? C : V), outside_b = two && at_b2 >= (operand_b[15] ? C : V);
    wire        outside_table = kind == `AXL_MAP_TABLE && {16'd0, first} + {16'd0, last} >= F;
    wire        outside_map = walk2 && (outside_a || outside_b || outside_table
                                        || (into != `AXL_INTO_NOTHING && place2 + beats_more >= bound));
    wire        element2 = walk2 && !outside_map && !i_rst;

    // VROW
    wire        row_first, row_write, row_done;
    wire [5:0]  reduced_row, scalar_row;
    wire [31:0] scalar, value;
    wire [5:0]  scalar_shift;
    wire [21:0] token_word;
    wire signed [63:0] reduced;
    vector_scalar #(.DIVIDERS(VECTOR_LANES)) u_scalar (
        .i_clk(i_clk), .i_rst(i_rst), .i_run(i_run), .i_begin(begin_row), .i_function(sub[`AXL_VROW_FUNCTION]), .i_last_row(misc[`AXL_VROW_ROWS]),
        .i_factor(x[`AXL_VROW_FACTOR]), .i_add(x[`AXL_VROW_ADD]), .i_shift(z[`AXL_VROW_SHIFT]), .i_adjust(z[`AXL_VROW_ADJUST]), .i_token(y[7:0]),
        .o_read_row(reduced_row), .i_reduced(reduced), .o_row(scalar_row), .o_first(row_first), .o_write(row_write),
        .o_scalar(scalar), .o_scalar_shift(scalar_shift), .o_value(value), .o_token_word(token_word), .o_done(row_done));
    wire        tokens = kind == `AXL_ROW_TOKEN;
    wire [31:0] token_at = {16'd0, token_base} + {26'd0, scalar_row};
    wire [31:0] value_at = {16'd0, destination} + {26'd0, scalar_row};
    wire [31:0] last_token = {16'd0, token_base} + {26'd0, last_row}, last_value = {16'd0, destination} + {26'd0, last_row};
    wire        outside_row = row_first && ((tokens && last_token >= T) || (write_value && last_value >= O));
    ram_lut #(.WIDTH(22), .DEPTH(TBUF_TOKENS)) u_tokens (
        .i_clk(i_clk), .i_write(row_write && tokens), .i_write_address(token_at[TADDR-1:0]), .i_write_data(token_word),
        .i_read_address(i_token), .o_read_data(o_row_token));
    assign o_done  = map ? map_done : row_done;
    assign o_error = i_run && (outside_map || outside_row) ? `AXL_ERROR_LOCAL_ADDRESS : `AXL_ERROR_NONE;

    // Stages 3 and 4: operands and the row's scalars
    wire        element3, end3;
    wire [5:0]  row3;
    wire [2:0]  in_bank3;
    wire [15:0] word3;
    delay #(.WIDTH(27), .STAGES(1)) u_three (
        .i_clk(i_clk), .i_data({element2, end2, row2, in_bank2, word2}), .o_data({element3, end3, row3, in_bank3, word3}));
    wire [5:0]  own2 = shared ? {3'd0, in_bank2} : row2;
    wire [37:0] factor3, less3;
    ram_sync #(.WIDTH(38), .DEPTH(256)) u_factors (
        .i_clk(i_clk), .i_write(row_write), .i_write_address({scalar_place, scalar_row}), .i_write_data({scalar_shift, scalar}),
        .i_read(1'b1), .i_read_address({scale, own2}), .o_read_data(factor3));
    ram_sync #(.WIDTH(38), .DEPTH(256)) u_less (
        .i_clk(i_clk), .i_write(row_write), .i_write_address({scalar_place, scalar_row}), .i_write_data({scalar_shift, scalar}),
        .i_read(1'b1), .i_read_address({less, own2}), .o_read_data(less3));
    wire [32*VECTOR_LANES-1:0] constant_a, constant_b, vector_a, vector_b;
    wire                       vbuf_write;
    wire [VADDR-1:0]           vbuf_word;
    wire [32*VECTOR_LANES-1:0] vbuf_data;
    localparam CBEAT = $clog2(4 * VECTOR_LANES * CBUF_WORDS / BEAT_BYTES), FBEAT = $clog2(8 * TABLE_ENTRIES / BEAT_BYTES);
    wire unused_beat = &{1'b0, i_write_beat, at_a2, at_b2, less3, place2, offset2, token_at, value_at};
    genvar g;
    generate
        for (g = 0; g < 2; g = g + 1) begin : g_operand
            wire [31:0] at = g == 0 ? at_a2 : at_b2;
            wire [32*VECTOR_LANES-1:0] from_c, from_v;
            wire        unused_at = &{1'b0, at};
            beat_ram #(.BEAT(BEAT_BYTES), .WORD(4*VECTOR_LANES), .WORDS(CBUF_WORDS)) u_cbuf (
                .i_clk(i_clk), .i_write(i_cbuf_write), .i_write_beat(i_write_beat[CBEAT-1:0]), .i_write_data(i_write_data),
                .i_read(1'b1), .i_read_word(at[CADDR-1:0]), .o_read_data(from_c));
            ram_sync #(.WIDTH(32*VECTOR_LANES), .DEPTH(VBUF_WORDS)) u_vbuf (
                .i_clk(i_clk), .i_write(vbuf_write), .i_write_address(vbuf_word), .i_write_data(vbuf_data),
                .i_read(1'b1), .i_read_address(at[VADDR-1:0]), .o_read_data(from_v));
        end
    endgenerate
    assign {constant_b, constant_a, vector_b, vector_a} = {g_operand[1].from_c, g_operand[0].from_c,
                                                           g_operand[1].from_v, g_operand[0].from_v};
    reg  [32*VECTOR_LANES-1:0] a4, b4;
    reg  [VECTOR_LANES-1:0]    valid4;
    reg  [31:0]                factor4, less4;
    reg  [5:0]                 factor_shift4;
    wire [32:0] length3 = {1'b0, valid} + (step_valid ? {30'd0, in_bank3} : 33'd0);
    wire [32:0] n3      = {17'd0, word3} << LOGV;
    integer e;
    always @(posedge i_clk) begin
        a4 <= operand_a[15] ? constant_a : vector_a;
        b4 <= operand_b[15] ? constant_b : vector_b;
        {factor_shift4, factor4} <= factor3;
        less4 <= subtract ? less3[31:0] : 32'd0;
        for (e = 0; e < VECTOR_LANES; e = e + 1) valid4[e] <= n3 + {1'b0, e[31:0]} < length3;
    end

    // Stages 17 and 18 may meet the settings of the next instruction: theirs are two cycles older.
    reg  [1:0] into_before, into_late, size_before, size_late;
    reg        tiled_before, tiled_late;
    always @(posedge i_clk) begin
        {into_before, size_before, tiled_before} <= {into, size, tiled};
        {into_late, size_late, tiled_late}       <= {into_before, size_before, tiled_before};
    end

    // Stages 4 to 18: elements
    wire [32*VECTOR_LANES-1:0] results, y17;
    wire [VECTOR_LANES-1:0]    changed, valid17;
    wire [31:0] high = size_late == 2'd0 ? 32'h7f : size_late == 2'd1 ? 32'h7fff : 32'h7fffffff;
    generate
        for (g = 0; g < VECTOR_LANES; g = g + 1) begin : g_element
            wire [15:0] entry;
            wire [63:0] record;
            wire        unused_at = &{1'b0, entry};
            beat_ram #(.BEAT(BEAT_BYTES), .WORD(8), .WORDS(TABLE_ENTRIES)) u_table (
                .i_clk(i_clk), .i_write(i_table_write), .i_write_beat(i_write_beat[FBEAT-1:0]), .i_write_data(i_write_data),
                .i_read(1'b1), .i_read_word(entry[FADDR-1:0]), .o_read_data(record));
            vector_map u_map (
                .i_clk(i_clk), .i_a(a4[32*g +: 32]), .i_b(b4[32*g +: 32]), .i_less(less4), .i_factor(factor4),
                .i_factor_shift(factor_shift4), .i_valid(valid4[g]), .i_function(kind), .i_ca(ca), .i_cb(cb), .i_shift(shift),
                .i_low(low), .i_step(interval_step), .i_first(first), .i_last(last), .i_slope_shift(slope_shift),
                .i_writes(into_late != `AXL_INTO_NOTHING), .i_high(high), .o_entry(entry), .i_record(record),
                .o_y(y17[32*g +: 32]), .o_y_valid(valid17[g]), .o_result(results[32*g +: 32]), .o_changed(changed[g]));
            assign o_ubuf_data[ACTIVATION_BITS*g +: ACTIVATION_BITS] = results[32*g +: ACTIVATION_BITS];
        end
    endgenerate

    // Stage 17: reductions
    wire        element17, end17;
    wire [5:0]  row17;
    delay #(.WIDTH(8), .STAGES(14)) u_seventeen (
        .i_clk(i_clk), .i_data({element3 && reduction != `AXL_REDUCE_NONE && !i_rst, end3, row3}),
        .o_data({element17, end17, row17}));
    vector_reduce #(.VECTOR_LANES(VECTOR_LANES)) u_reduce (
        .i_clk(i_clk), .i_rst(i_rst), .i_element(element17), .i_end(end17), .i_row(row17), .i_reduction(reduction), .i_y(y17),
        .i_valid(valid17), .i_read_row(reduced_row), .o_reduced(reduced));

    // Stage 18: results
    wire             element18;
    wire [2:0]       in_bank18;
    wire [OADDR-1:0] beat18;
    wire [LOGB-1:0]  byte18;
    wire [VADDR-1:0] word18;
    delay #(.WIDTH(4 + OADDR + LOGB + UADDR + LLANE + VADDR), .STAGES(16)) u_eighteen (
        .i_clk(i_clk), .i_data({element2, in_bank2, place2[OADDR-1:0], offset2[LOGB-1:0], place2[UADDR-1:0], n2[LLANE-1:0],
                                place2[VADDR-1:0]}),
        .o_data({element18, in_bank18, beat18, byte18, o_ubuf_line, o_ubuf_lane, word18}));
    wire [OUT_BYTES-1:0]    map_write;
    wire [8*OUT_BYTES-1:0]  map_data;
    wire [OUT_BYTES-1:0]    one_beat = {OUT_BYTES{1'b1}} >> (OUT_BYTES - BEAT_BYTES);
    vector_output #(.PORTS(PORTS), .VECTOR_LANES(VECTOR_LANES), .BEAT_BYTES(BEAT_BYTES)) u_output (
        .i_valid(element18 && into_late == `AXL_INTO_OBUF), .i_tiled(tiled_late), .i_size(size_late), .i_byte(byte18), .i_results(results),
        .o_write(map_write), .o_data(map_data));
    assign vbuf_write = i_vbuf_write || (element18 && into_late == `AXL_INTO_VBUF);
    assign vbuf_word  = i_vbuf_write ? i_vbuf_word : word18;
    assign vbuf_data  = i_vbuf_write ? i_vbuf_data : results;
    wire   value_write = row_write && write_value && !map;
    assign o_obuf_write = value_write ? one_beat : map_write;
    assign o_obuf_beat  = value_write ? value_at[OADDR-1:0] : beat18;
    assign o_obuf_data  = value_write ? {(OUT_BYTES/4){value}} : map_data;
    assign o_ubuf_write = element18 && into_late == `AXL_INTO_UBUF ? {{(TOKENS-1){1'b0}}, 1'b1} << in_bank18 : {TOKENS{1'b0}};
    assign o_elements   = element18 ? VECTOR_LANES[4:0] : 5'd0;
    wire [4:0] clamps;
    popcount #(.WIDTH(VECTOR_LANES), .OUT(5)) u_clamps (.i_bits(changed), .o_count(clamps));
    assign o_saturations = element18 ? clamps : 5'd0;
endmodule
`default_nettype wire
