// Legality of an instruction whose effective X, Y, Z are known, in three parts: semaphores, alignment of X, and the rest. Each
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
    parameter U8_ALLOWED      = 1
) (
    input  wire [127:0] i_word,
    input  wire [31:0]  i_x,
    output wire [2:0]   o_legal,  // all three
    output reg  [3:0]   o_unit
);
    localparam LOGB = $clog2(BEAT_BYTES);
    localparam [1:0] SIZE = ACTIVATION_BITS == 8 ? 2'd0 : 2'd1;
    localparam [3:0] COUNT = TOKENS[3:0];
    localparam [5:0] WIDEST = LOGB[5:0];
    localparam       KEYS = BEAT_BYTES <= LANES, TILES = PORTS <= BEAT_BYTES;

    wire [5:0]  op    = i_word[5:0];
    wire [4:0]  wait_a = i_word[10:6], wait_b = i_word[15:11], post_a = i_word[20:16], post_b = i_word[25:21];
    wire [5:0]  sub   = i_word[31:26];
    wire        rx0   = i_word[36:32] == 5'd0, ry0 = i_word[41:37] == 5'd0, rz0 = i_word[46:42] == 5'd0;
    wire [16:0] misc  = i_word[63:47];
    wire [31:0] x     = i_word[95:64];
    wire        y0    = i_word[111:96] == 16'd0, z0 = i_word[127:112] == 16'd0;
    wire        sub0  = sub == 6'd0;
    wire        plain = i_word[25:6] == 20'd0;
    wire [15:0] y     = i_word[111:96], z = i_word[127:112];
    wire        aligned = i_x[LOGB-1:0] == {LOGB{1'b0}};
    wire [31:0] narrow  = (32'd1 << (sub - 6'd1)) - 32'd1;
    wire        named   = (i_x & narrow) == 32'd0;  // sub 0: not looked at

    wire        unused_bits = &{1'b0, y, z};
    reg         fields;
    reg  [1:0]  family;
    always @* begin
        case (op)
            `AXL_OP_LOAD: o_unit = `AXL_UNIT_LOAD;
            `AXL_OP_SEGW, `AXL_OP_SEGA, `AXL_OP_CODEBOOK, `AXL_OP_MATMUL: o_unit = `AXL_UNIT_MATRIX;
            `AXL_OP_VCFG, `AXL_OP_VOUT, `AXL_OP_VREQ, `AXL_OP_VQT, `AXL_OP_VMAP, `AXL_OP_VROW, `AXL_OP_VLEN,
            `AXL_OP_VPITCH, `AXL_OP_VCON, `AXL_OP_VTAB: o_unit = `AXL_UNIT_VECTOR;
            `AXL_OP_STORE: o_unit = `AXL_UNIT_STORE;
            default: o_unit = `AXL_UNIT_FETCH;
        endcase
        family = o_unit[1:0] - 2'd1;
    end
    wire fields_ok = (wait_a[4] || wait_a == 5'd0) && (wait_b == 5'd0 || (wait_b[4] && wait_a[4]))
                     && (post_a[4] || post_a == 5'd0) && (post_b == 5'd0 || (post_b[4] && post_a[4]));
    wire posts_ok = fields_ok && !(post_a[4] && post_a[3:2] != family) && !(post_b[4] && post_b[3:2] != family)
                    && !(post_a[4] && post_a == post_b) && !(wait_a[4] && wait_a == wait_b);
    wire format_ok = misc[3:0] <= `AXL_FORMAT_CB4 && (misc[3:0] != `AXL_FORMAT_U8 || U8_ALLOWED != 0);
    wire map_ok = misc[6:5] != 2'd3 && (misc[4:3] != `AXL_INTO_NOTHING || misc[6:5] == 2'd0)
                  && (misc[4:3] != `AXL_INTO_VBUF || misc[6:5] == 2'd2)
                  && (misc[4:3] != `AXL_INTO_UBUF || (misc[6:5] == SIZE && {1'b0, misc[2:0]} + 4'd1 <= COUNT))
                  && (!misc[12] || (misc[4:3] == `AXL_INTO_OBUF && misc[6:5] == 2'd0 && TILES));
    always @* begin
        case (op)
            `AXL_OP_HALT, `AXL_OP_ENDLOOP: fields = i_word[127:26] == 102'd0;
            `AXL_OP_SET: fields = sub0 && ry0 && rz0 && y0 && z0 && misc[16:3] == 14'd0 && misc[2:0] != 3'd0;
            `AXL_OP_LOOP: fields = sub0 && rx0 && ry0 && misc == 17'd0 && x == 32'd0 && !y0;
            `AXL_OP_LOAD: fields = sub <= 6'd7 && (sub != 6'd7 || KEYS);
            `AXL_OP_SEGW: fields = sub <= 6'd8 && misc[16:8] == 9'd0 && format_ok && misc[7:4] <= 4'd8;
            `AXL_OP_SEGA: fields = sub <= 6'd8 && misc[16:2] == 15'd0 && x[31:16] == 16'd0
                                    && (!misc[1] || misc[0]) && (!misc[0] || GROUP_SCALES != 0);
            `AXL_OP_CODEBOOK: fields = sub <= 6'd1 && misc == 17'd0 && rx0 && ry0 && rz0;
            `AXL_OP_MATMUL: fields = sub != 6'd0 && sub <= 6'd9 && !misc[16] && {1'b0, misc[3:1]} + 4'd1 <= COUNT;
            `AXL_OP_VCFG: fields = sub0 && misc[16:13] == 4'd0;
            `AXL_OP_VOUT: fields = sub0 && rx0 && ry0 && rz0 && y0 && z0 && x[31:16] == 16'd0
                                    && misc[16:4] == 13'd0 && misc[1:0] != 2'd3 && (!misc[2] || misc[1:0] == SIZE)
                                    && misc[3:2] != 2'd3 && (!misc[3] || misc[1:0] == 2'd2);
            `AXL_OP_VREQ: fields = sub0 && misc[16:3] == 14'd0 && {1'b0, misc[2:0]} + 4'd1 <= COUNT;
            `AXL_OP_VQT: fields = sub0 && misc[16:7] == 10'd0 && misc[6:3] <= 4'd8 && {1'b0, misc[2:0]} + 4'd1 <= COUNT;
            `AXL_OP_VMAP: fields = sub <= 6'd15 && misc[16:13] == 4'd0 && map_ok;
            `AXL_OP_VROW: fields = sub <= 6'd3 && misc[16:6] == 11'd0 && rx0 && rz0 && z[15:14] == 2'd0
                                    && (sub[1:0] != `AXL_ROW_TOKEN || (ry0 && !misc[5] && y[15:8] == 8'd0));
            `AXL_OP_VLEN: fields = sub0 && misc[16:1] == 16'd0 && ry0 && rz0 && y0 && z0;
            `AXL_OP_VPITCH: fields = sub0 && misc == 17'd0 && rz0 && z0;
            `AXL_OP_VCON: fields = sub0 && misc == 17'd0 && rx0 && ry0 && rz0 && z0 && y[15:6] == 10'd0;
            `AXL_OP_VTAB: fields = sub0 && misc[16:12] == 5'd0 && !misc[5] && rx0 && ry0 && rz0;
            `AXL_OP_STORE: fields = sub <= WIDEST;
            default: fields = 1'b0;
        endcase
    end
    wire control = o_unit == `AXL_UNIT_FETCH;
    wire whole   = op == `AXL_OP_LOAD || (op == `AXL_OP_STORE && sub0);
    assign o_legal = {fields, control ? plain : posts_ok, whole ? aligned : op != `AXL_OP_STORE || named};
endmodule
`default_nettype wire
