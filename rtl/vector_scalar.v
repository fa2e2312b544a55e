// VROW: a function of each row's reduction. PRODUCT, ROUND, then WRITE (COPY), or NORMALISE, ROOT (32 steps, RSQRT only),
// DIVIDE (31 steps) and WRITE. Square root and quotient are found a bit a cycle.
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
    localparam [2:0] IDLE = 3'd0, PRODUCT = 3'd1, ROUND = 3'd2, NORMALISE = 3'd3, ROOT = 3'd4, DIVIDE = 3'd5, WRITE = 3'd6;
    reg  [2:0]         state;
    reg  [4:0]         count;
    reg  [1:0]         kind;
    reg  [2:0]         last;
    reg  [15:0]        factor, add;
    reg  [5:0]         shift;
    reg signed [7:0]   adjust, token, k;
    reg signed [63:0]  product, v;
    reg  [63:0]        radicand;
    reg  [31:0]        n, root, quotient;
    reg  [33:0]        rest;
    reg  [15:0]        mantissa;
    wire signed [63:0] factor_wide = {48'd0, factor};
    wire signed [63:0] rounded;
    wire               copy = kind == `AXL_ROW_COPY, token_kind = kind == `AXL_ROW_TOKEN, root_kind = kind == `AXL_ROW_RSQRT;
    round_shift u_round (.i_value(product), .i_shift(shift), .o_value(rounded));

    // NORMALISE: u = max(v, 1) of `length` bits.
    wire [63:0] u = v < 64'sd1 ? 64'd1 : v;
    reg  [6:0]  length;
    integer     i;
    always @* begin
        length = 7'd1;
        for (i = 1; i < 64; i = i + 1) if (u[i]) length = i[6:0] + 7'd1;
    end
    wire [6:0]  up      = 7'd64 - length;                    // to bit 63
    wire [63:0] highest = u << up[5:0];
    wire [63:0] even    = u << {up[5:1], 1'b0};
    wire [16:0] rounded16 = {1'b0, highest[63:48]} + {16'd0, highest[47]};
    wire        carry   = token_kind && rounded16[16];
    wire signed [7:0] k_root = {2'b00, up[6:1]}, k_one = 8'sd32 - {1'b0, length} - {7'd0, carry};
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
        product <= i_reduced * factor_wide;
        if (state == ROUND) v <= rounded + (token_kind ? 64'sd0 : {48'd0, add});
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
                PRODUCT: state <= ROUND;
                ROUND: state <= copy ? WRITE : NORMALISE;
                NORMALISE: state <= root_kind ? ROOT : DIVIDE;
                ROOT: if (count == 5'd31) state <= DIVIDE;
                DIVIDE: if (count == 5'd30) state <= WRITE;
                WRITE: state <= o_row == last ? IDLE : PRODUCT;
                default: state <= IDLE;
            endcase
    end
endmodule
`default_nettype wire
