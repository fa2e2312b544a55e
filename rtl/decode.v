// Legality of an instruction whose effective X, Y, Z are known, in four parts: windows, semaphores, alignment of X, and the rest. Each
// line of the rest: the opcode's constraints, reserved fields zero.
`default_nettype none
`include "axlora_isa.vh"
module decode #(
    parameter TOKENS          = 2,
    parameter LANES           = 8,
    parameter PORTS           = 4,
    parameter BEAT_BYTES      = 8,
    parameter ACTIVATION_BITS = 8,
    parameter GROUP_SCALES    = 1,
    parameter U8_ALLOWED      = 1,
    parameter WINDOWS         = 1
) (
    input  wire [127:0] i_word,
    input  wire [31:0]  i_x,
    output wire [3:0]   o_legal,  // all four
    output reg  [3:0]   o_unit
);
    localparam LOGB = $clog2(BEAT_BYTES);
    localparam [1:0] SIZE = ACTIVATION_BITS == 8 ? 2'd0 : 2'd1;
    localparam [3:0] COUNT = TOKENS[3:0], SETS = WINDOWS[3:0];
    localparam [5:0] WIDEST = LOGB[5:0] + 6'd1;
    localparam       KEYS = BEAT_BYTES <= LANES, TILES = PORTS <= BEAT_BYTES;

    wire [5:0]  op      = i_word[`AXL_WORD_OP];
    wire [4:0]  wait_a  = i_word[`AXL_WORD_WAIT_A], wait_b = i_word[`AXL_WORD_WAIT_B];
    wire [4:0]  post_a  = i_word[`AXL_WORD_POST_A], post_b = i_word[`AXL_WORD_POST_B];
    wire [5:0]  sub     = i_word[`AXL_WORD_SUB];
    wire [4:0]  rx      = i_word[`AXL_WORD_RX], ry = i_word[`AXL_WORD_RY], rz = i_word[`AXL_WORD_RZ];
    wire [16:0] misc    = i_word[`AXL_WORD_MISC];
    wire [31:0] x       = i_word[`AXL_WORD_X];
    wire [15:0] y       = i_word[`AXL_WORD_Y], z = i_word[`AXL_WORD_Z];
    wire        sub0    = sub == 6'd0, misc0 = misc == 17'd0, x0 = x == 32'd0, y0 = y == 16'd0, z0 = z == 16'd0;
    wire        rx0     = rx == 5'd0, ry0 = ry == 5'd0, rz0 = rz == 5'd0;
    wire        plain   = {wait_a, wait_b, post_a, post_b} == 20'd0;
    wire        aligned = i_x[LOGB-1:0] == {LOGB{1'b0}};
    wire [31:0] narrow  = (32'd1 << (sub - 6'd1)) - 32'd1;
    wire        named   = (i_x & narrow) == 32'd0;  // sub 0: not looked at

    reg         fields;
    reg  [1:0]  family;
    always @* begin
        case (op)
            `AXL_OP_LOAD: o_unit = `AXL_UNIT_LOAD;
            `AXL_OP_SEGW, `AXL_OP_SEGA, `AXL_OP_CODEBOOK, `AXL_OP_MATMUL: o_unit = `AXL_UNIT_MATRIX;
            `AXL_OP_VCFG, `AXL_OP_VOUT, `AXL_OP_VREQ, `AXL_OP_VQT, `AXL_OP_VMAP, `AXL_OP_VROW, `AXL_OP_VLEN,
            `AXL_OP_VPITCH, `AXL_OP_VBANK, `AXL_OP_VCON, `AXL_OP_VTAB: o_unit = `AXL_UNIT_VECTOR;
            `AXL_OP_STORE, `AXL_OP_SPITCH: o_unit = `AXL_UNIT_STORE;
            default: o_unit = `AXL_UNIT_FETCH;
        endcase
        family = o_unit[1:0] - 2'd1;
    end
    wire fields_ok = (wait_a[4] || wait_a == 5'd0) && (wait_b == 5'd0 || (wait_b[4] && wait_a[4]))
                     && (post_a[4] || post_a == 5'd0) && (post_b == 5'd0 || (post_b[4] && post_a[4]));
    wire posts_ok = fields_ok && !(post_a[4] && post_a[3:2] != family) && !(post_b[4] && post_b[3:2] != family)
                    && !(post_a[4] && post_a == post_b) && !(wait_a[4] && wait_a == wait_b);
    // Counts of tokens and rows are stored less one.
    wire [2:0] matmul_tokens = misc[`AXL_MATMUL_TOKENS], vreq_tokens = misc[`AXL_VREQ_TOKENS];
    wire [2:0] vqt_tokens = misc[`AXL_VQT_TOKENS], bank_rows = misc[`AXL_VBANK_ROWS];
    wire [3:0] format = misc[`AXL_SEGW_FORMAT];
    wire       format_ok = format <= `AXL_FORMAT_CB4 && (format != `AXL_FORMAT_U8 || U8_ALLOWED != 0);
    wire       sums = misc[`AXL_SEGA_SUMS], scaled = misc[`AXL_SEGA_SCALED];
    wire [1:0] out_size = misc[`AXL_VOUT_SIZE];
    wire       out_ubuf = misc[`AXL_VOUT_UBUF], out_vbuf = misc[`AXL_VOUT_VBUF];
    wire       out_ok = out_size != 2'd3 && (!out_ubuf || out_size == SIZE)
                        && !(out_ubuf && out_vbuf) && (!out_vbuf || out_size == 2'd2);
    wire [1:0] into = misc[`AXL_VMAP_INTO], map_size = misc[`AXL_VMAP_SIZE];
    wire       map_ok = map_size != 2'd3 && (into != `AXL_INTO_NOTHING || map_size == 2'd0)
                        && (into != `AXL_INTO_VBUF || map_size == 2'd2)
                        && (into != `AXL_INTO_UBUF || map_size == SIZE)
                        && (!misc[`AXL_VMAP_TILED] || (into == `AXL_INTO_OBUF && map_size == 2'd0 && TILES));
    wire       token_ok = ry0 && !misc[`AXL_VROW_WRITE] && y[15:8] == 8'd0;
    wire [4:0] rd = misc[`AXL_SET_RD];
    wire [5:0] table_step = misc[`AXL_VTAB_STEP];
    always @* begin
        case (op)
            `AXL_OP_HALT, `AXL_OP_ENDLOOP: fields = sub0 && rx0 && ry0 && rz0 && misc0 && x0 && y0 && z0;
            `AXL_OP_SET: fields = sub0 && ry0 && rz0 && y0 && z0 && misc[`AXL_SET_SPARE] == 12'd0
                                    && rd != 5'd0 && rd <= 5'd7;
            `AXL_OP_WINDOW: fields = sub0 && ry0 && rz0 && misc0 && y0 && z0;
            `AXL_OP_LOOP: fields = sub0 && rx0 && ry0 && misc0 && x0 && !y0;
            `AXL_OP_LOAD: fields = sub <= `AXL_LOAD_SUB_MAX && (sub[`AXL_LOAD_BUFFER] != `AXL_BUFFER_WKEY || KEYS);
            `AXL_OP_SEGW: fields = sub <= `AXL_SEGW_SUB_MAX && misc[`AXL_SEGW_SPARE] == 9'd0 && format_ok
                                    && misc[`AXL_SEGW_SLOT] <= `AXL_SLOTS;
            `AXL_OP_SEGA: fields = sub <= `AXL_SEGA_SUB_MAX && misc[`AXL_SEGA_SPARE] == 15'd0 && x[31:16] == 16'd0
                                    && (!sums || scaled) && (!scaled || GROUP_SCALES != 0);
            `AXL_OP_CODEBOOK: fields = sub <= `AXL_CODEBOOK_SUB_MAX && misc0 && rx0 && ry0 && rz0;
            `AXL_OP_MATMUL: fields = !sub0 && sub <= `AXL_MATMUL_SUB_MAX && misc[`AXL_MATMUL_SPARE] == 1'd0
                                    && {1'b0, matmul_tokens} + 4'd1 <= COUNT;
            `AXL_OP_VCFG: fields = sub0 && misc[`AXL_VCFG_SPARE] == 4'd0;
            `AXL_OP_VOUT: fields = sub0 && rx0 && ry0 && rz0 && y0 && z0 && x[31:16] == 16'd0
                                    && misc[`AXL_VOUT_SPARE] == 13'd0 && out_ok;
            `AXL_OP_VREQ: fields = sub0 && misc[`AXL_VREQ_SPARE] == 8'd0 && {1'b0, vreq_tokens} + 4'd1 <= COUNT;
            `AXL_OP_VQT: fields = sub0 && misc[`AXL_VQT_SPARE] == 10'd0 && misc[`AXL_VQT_SLOT] <= `AXL_SLOTS
                                    && {1'b0, vqt_tokens} + 4'd1 <= COUNT;
            `AXL_OP_VMAP: fields = sub <= `AXL_VMAP_SUB_MAX && map_ok;
            `AXL_OP_VROW: fields = sub <= `AXL_VROW_SUB_MAX && misc[`AXL_VROW_SPARE] == 8'd0 && rz0
                                    && z[15:14] == 2'd0 && (sub[`AXL_VROW_FUNCTION] != `AXL_ROW_TOKEN || token_ok);
            `AXL_OP_VLEN: fields = sub0 && misc[`AXL_VLEN_SPARE] == 16'd0 && ry0 && rz0 && y0 && z0;
            `AXL_OP_VPITCH: fields = sub0 && misc0 && rz0 && z0;
            `AXL_OP_VBANK: fields = sub0 && misc[`AXL_VBANK_SPARE] == 14'd0 && rz0 && z0
                                    && {1'b0, bank_rows} + 4'd1 <= COUNT;
            `AXL_OP_VCON: fields = sub0 && misc0 && rx0 && ry0 && rz0 && z0 && y[15:6] == 10'd0;
            `AXL_OP_VTAB: fields = sub0 && misc[`AXL_VTAB_SPARE] == 5'd0 && table_step < 6'd32 && rx0 && ry0 && rz0;
            `AXL_OP_STORE: fields = sub <= WIDEST;
            `AXL_OP_SPITCH: fields = sub0 && misc0 && rz0 && z0;
            default: fields = 1'b0;
        endcase
    end
    wire control = o_unit == `AXL_UNIT_FETCH;
    wire whole   = op == `AXL_OP_LOAD || (op == `AXL_OP_STORE && sub0);
    wire there   = op != `AXL_OP_WINDOW || (i_x[31:4] == 28'd0 && i_x[3:0] < SETS);
    assign o_legal = {there, fields, control ? plain : posts_ok, whole ? aligned : op != `AXL_OP_STORE || named};
endmodule
`default_nettype wire
