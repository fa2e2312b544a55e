// VROW: a function of each row's reduction. PRODUCT and SUM (reduction times factor), SHIFT and ROUND, then WRITE (COPY), or
// COUNT and FINE (length), ALIGN, NORMALISE, ROOT (32 steps, RSQRT only), DIVIDE (31 steps) and WRITE. Square root and quotient are found a bit a cycle.
`default_nettype none
`include "axlora_isa.vh"
module vector_scalar (
    input  wire               i_clk,
    input  wire               i_rst,
    input  wire               i_run,
    input  wire               i_begin,
    input  wire [1:0]         i_function,
    input  wire [2:0]         i_last_row,
    input  wire [15:0]        i_factor,
    input  wire [15:0]        i_add,
    input  wire [5:0]         i_shift,
    input  wire [7:0]         i_adjust,
    input  wire [7:0]         i_token,
    input  wire signed [63:0] i_reduced,
    output reg  [2:0]         o_row,
    output wire               o_first,
    output wire               o_write,
    output wire [31:0]        o_scalar,
    output wire [5:0]         o_scalar_shift,
    output wire [31:0]        o_value,
    output wire [21:0]        o_token_word,
    output wire               o_done
);
    localparam [3:0] IDLE = 4'd0, PRODUCT = 4'd1, SUM = 4'd2, SHIFT = 4'd3, ROUND = 4'd4, COUNT = 4'd5, FINE = 4'd6, ALIGN = 4'd7,
                     NORMALISE = 4'd8, ROOT = 4'd9, DIVIDE = 4'd10, WRITE = 4'd11;
    reg  [3:0]         state;
    reg  [4:0]         count;
    reg  [1:0]         kind;
    reg  [2:0]         last;
    reg  [15:0]        factor, add;
    reg  [5:0]         shift;
    reg signed [7:0]   adjust, token, k;
    reg  [63:0]        radicand;
    reg  [31:0]        n, root, quotient;
    reg  [33:0]        rest;
    reg  [15:0]        mantissa;
    wire               copy = kind == `AXL_ROW_COPY, token_kind = kind == `AXL_ROW_TOKEN, root_kind = kind == `AXL_ROW_RSQRT;

    // v, from ROUND's end on: its inputs stay until WRITE.
    wire signed [63:0] product, v;
    multiply16 #(.WIDTH(64)) u_product (.i_clk(i_clk), .i_a(i_reduced), .i_b(factor), .o_product(product));
    round_shift u_round (.i_clk(i_clk), .i_value(product), .i_shift(shift), .i_add(token_kind ? 64'sd0 : {48'd0, add}),
                         .o_value(v));

    // COUNT, FINE, ALIGN: u = max(v, 1) shifted to bit 63; its highest byte first, then the bit in it.
    reg         least;
    reg  [7:0]  filled;
    reg  [5:0]  up;
    reg  [63:0] highest, even;
    reg  [2:0]  at_byte;
    integer     i;
    always @* begin
        at_byte = 3'd0;
        for (i = 1; i < 8; i = i + 1) if (filled[i]) at_byte = i[2:0];
    end
    wire [7:0]  top_byte = v[8*at_byte +: 8];
    wire [4:0]  at_bit;
    top_bit u_top (.i_value({24'd0, top_byte}), .o_at(at_bit));
    wire [63:0] u = least ? 64'd1 : v;
    wire        unused_at = &{1'b0, at_bit[4:3]};

    // NORMALISE
    wire [6:0]  length    = 7'd64 - {1'b0, up};
    wire [16:0] rounded16 = {1'b0, highest[63:48]} + {16'd0, highest[47]};
    wire        carry     = token_kind && rounded16[16];
    wire signed [7:0] k_root = {3'b000, up[5:1]}, k_one = 8'sd32 - {1'b0, length} - {7'd0, carry};
    wire signed [7:0] k_next = root_kind ? k_root : k_one;

    // ROOT and DIVIDE: one bit
    wire [33:0] root_rest  = {rest[31:0], radicand[63:62]};
    wire [33:0] root_trial = {root, 2'b01};
    wire        root_bit   = root_rest >= root_trial;
    wire [33:0] divide_rest = {rest[32:0], 1'b1};
    wire        divide_bit  = divide_rest >= {2'b00, n};

    wire signed [9:0] held_wide  = 10'sd62 - {{2{k[7]}}, k} - {{2{adjust[7]}}, adjust};
    wire signed [9:0] token_wide = {{2{k[7]}}, k} + {{2{token[7]}}, token} - 10'sd16;
    wire [5:0]  token_shift = token_wide < 10'sd1 ? 6'd1 : token_wide > 10'sd62 ? 6'd62 : token_wide[5:0];
    wire signed [31:0] value;
    wire        value_changed;
    wire        unused_bits = &{1'b0, value_changed, held_wide, token_wide, rest[33], highest};
    saturate32 u_value (.i_value(v), .o_value(value), .o_changed(value_changed));
    assign o_value        = value;
    assign o_scalar       = copy ? value : quotient;
    assign o_scalar_shift = copy || held_wide < 10'sd0 ? 6'd0 : held_wide > 10'sd63 ? 6'd63 : held_wide[5:0];
    assign o_token_word   = {mantissa, token_shift};
    assign o_first        = state == PRODUCT;
    assign o_write        = state == WRITE && i_run;
    assign o_done         = o_write && o_row == last;
    always @(posedge i_clk) begin
        if (i_begin) begin
            {kind, last, factor, add, shift} <= {i_function, i_last_row, i_factor, i_add, i_shift};
            {adjust, token} <= {i_adjust, i_token};
            o_row <= 3'd0;
        end else if (o_write) o_row <= o_row + 3'd1;
        if (state == COUNT) begin
            least <= v < 64'sd1;
            for (i = 0; i < 8; i = i + 1) filled[i] <= v[8*i +: 8] != 8'd0;
        end
        if (state == FINE) up <= least ? 6'd63 : ~{at_byte, at_bit[2:0]};
        if (state == ALIGN) begin
            highest <= u << up;
            even    <= u << {up[5:1], 1'b0};
        end
        if (state == NORMALISE) begin
            k        <= k_next;
            mantissa <= carry ? 16'h8000 : rounded16[15:0];
            n        <= token_kind ? {carry ? 16'h8000 : rounded16[15:0], 16'd0} : highest[63:32];
            radicand <= even;
            root     <= 32'd0;
            quotient <= 32'd0;
            rest     <= root_kind ? 34'd0 : {3'd0, {31{1'b1}}};
        end
        if (state == ROOT) begin
            rest     <= count == 5'd31 ? {3'd0, {31{1'b1}}} : root_bit ? root_rest - root_trial : root_rest;
            root     <= {root[30:0], root_bit};
            radicand <= radicand << 2;
            n        <= {root[30:0], root_bit};
        end
        if (state == DIVIDE) begin
            rest     <= divide_bit ? divide_rest - {2'b00, n} : divide_rest;
            quotient <= {quotient[30:0], divide_bit};
        end
        if (i_run) count <= (state == ROOT && count != 5'd31) || (state == DIVIDE && count != 5'd30) ? count + 5'd1 : 5'd0;
        if (i_rst) begin
            state <= IDLE;
            count <= 5'd0;
        end else if (i_run)
            case (state)
                IDLE: if (i_begin) state <= PRODUCT;
                PRODUCT: state <= SUM;
                SUM: state <= SHIFT;
                SHIFT: state <= ROUND;
                ROUND: state <= copy ? WRITE : COUNT;
                COUNT: state <= FINE;
                FINE: state <= ALIGN;
                ALIGN: state <= NORMALISE;
                NORMALISE: state <= root_kind ? ROOT : DIVIDE;
                ROOT: if (count == 5'd31) state <= DIVIDE;
                DIVIDE: if (count == 5'd30) state <= WRITE;
                WRITE: state <= o_row == last ? IDLE : PRODUCT;
                default: state <= IDLE;
            endcase
    end
endmodule
`default_nettype wire
