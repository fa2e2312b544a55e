// VROW: a function of each row's reduction. Rows follow each other, one a cycle, in turns of DIVIDERS; the next turn begins when the
// dividers are free, 17 cycles after the one before (RSQRT: 33), or at once (COPY).
// PRODUCT and SUM (reduction times factor), SHIFT and ROUND, then WRITE (COPY), or COUNT and FINE (length), ALIGN, NORMALISE,
// root (16 steps, RSQRT only) and quotient (16 steps) in a vector_divide of the row's own, and WRITE.
`default_nettype none
`include "axlora_isa.vh"
module vector_scalar #(
    parameter DIVIDERS = 2
) (
    input  wire               i_clk,
    input  wire               i_rst,
    input  wire               i_run,
    input  wire               i_begin,
    input  wire [1:0]         i_function,
    input  wire [5:0]         i_last_row,
    input  wire [15:0]        i_factor,
    input  wire [15:0]        i_add,
    input  wire [5:0]         i_shift,
    input  wire [7:0]         i_adjust,
    input  wire [7:0]         i_token,
    output reg  [5:0]         o_read_row,
    input  wire signed [63:0] i_reduced,
    output reg  [5:0]         o_row,
    output wire               o_first,
    output wire               o_write,
    output wire [31:0]        o_scalar,
    output wire [5:0]         o_scalar_shift,
    output wire [31:0]        o_value,
    output wire [21:0]        o_token_word,
    output wire               o_done
);
    // Cycles from the reading of a row to its WRITE
    localparam [5:0] ROUNDED = 6'd4, DIVIDED = 6'd24, ROOTED = 6'd40;
    localparam integer DIVIDERS_LAST = DIVIDERS - 1;
    localparam [5:0] INSIDE = DIVIDERS_LAST[5:0];
    reg                active, begun, all_read;
    reg  [5:0]         lead, read_turn, write_turn;
    reg  [1:0]         kind;
    reg  [5:0]         last;
    reg  [15:0]        factor, add;
    reg  [5:0]         shift;
    reg signed [7:0]   adjust, token;
    wire               copy = kind == `AXL_ROW_COPY, token_kind = kind == `AXL_ROW_TOKEN, root_kind = kind == `AXL_ROW_RSQRT;
    wire [5:0]         turn_last = copy ? INSIDE : root_kind ? 6'd32 : 6'd16;
    wire               read      = active && !all_read && read_turn <= INSIDE;
    wire               writing   = active && lead == 6'd0;

    // Steps 0 to 3
    wire signed [63:0] product, v;
    multiply16 #(.WIDTH(64)) u_product (.i_clk(i_clk), .i_a(i_reduced), .i_b(factor), .o_product(product));
    round_shift u_round (.i_clk(i_clk), .i_value(product), .i_shift(shift), .i_add(token_kind ? 64'sd0 : {48'd0, add}),
                         .o_value(v));
    wire signed [31:0] value;
    wire        value_changed;
    saturate32 u_value (.i_value(v), .o_value(value), .o_changed(value_changed));

    // COUNT, FINE, ALIGN: u = max(v, 1) shifted to bit 63; its highest byte first, then the bit in it.
    reg         least;
    reg  [7:0]  filled;
    reg  [5:0]  up, up_normalise;
    reg  [63:0] v_fine, u, highest, even;
    reg  [2:0]  at_byte;
    integer     i;
    always @* begin
        at_byte = 3'd0;
        for (i = 1; i < 8; i = i + 1) if (filled[i]) at_byte = i[2:0];
    end
    wire [7:0]  top_byte = v_fine[8*at_byte +: 8];
    wire [4:0]  at_bit;
    top_bit u_top (.i_value({24'd0, top_byte}), .o_at(at_bit));
    always @(posedge i_clk) begin
        least <= v < 64'sd1;
        for (i = 0; i < 8; i = i + 1) filled[i] <= v[8*i +: 8] != 8'd0;
        v_fine       <= v;
        up           <= least ? 6'd63 : ~{at_byte, at_bit[2:0]};
        u            <= least ? 64'd1 : v_fine;
        highest      <= u << up;
        even         <= u << {up[5:1], 1'b0};
        up_normalise <= up;
    end

    // NORMALISE
    wire [6:0]  length    = 7'd64 - {1'b0, up_normalise};
    wire [16:0] rounded16 = {1'b0, highest[63:48]} + {16'd0, highest[47]};
    wire        carry     = token_kind && rounded16[16];
    wire [15:0] mantissa  = carry ? 16'h8000 : rounded16[15:0];
    wire signed [7:0] k_root = {3'b000, up_normalise[5:1]}, k_one = 8'sd32 - {1'b0, length} - {7'd0, carry};
    wire signed [7:0] k_next = root_kind ? k_root : k_one;
    wire [31:0] divisor   = token_kind ? {mantissa, 16'd0} : highest[63:32];

    // What WRITE needs of a row beside its quotient
    wire        keep;
    wire [5:0]  keep_row;
    wire [31:0] value_normalise, value_kept;
    wire signed [7:0]  k;
    wire [15:0] mantissa_kept;
    delay #(.WIDTH(7), .STAGES(7)) u_keep (.i_clk(i_clk), .i_data({read, o_read_row}), .o_data({keep, keep_row}));
    delay #(.WIDTH(32), .STAGES(3)) u_value_normalise (.i_clk(i_clk), .i_data(value), .o_data(value_normalise));
    ram_lut #(.WIDTH(56), .DEPTH(64)) u_kept (
        .i_clk(i_clk), .i_write(keep), .i_write_address(keep_row), .i_write_data({k_next, mantissa, value_normalise}),
        .i_read_address(o_row), .o_read_data({k, mantissa_kept, value_kept}));

    // Root and quotient
    wire [32*DIVIDERS-1:0] quotients;
    genvar g;
    generate
        for (g = 0; g < DIVIDERS; g = g + 1) begin : g_row
            vector_divide u_divide (
                .i_clk(i_clk), .i_load(keep && (keep_row & INSIDE) == g), .i_rooted(root_kind), .i_divisor(divisor),
                .i_radicand(even), .o_quotient(quotients[32*g +: 32]));
        end
    endgenerate

    // WRITE
    wire [5:0]  turn_row   = o_row & INSIDE;
    wire signed [9:0] held_wide  = 10'sd62 - {{2{k[7]}}, k} - {{2{adjust[7]}}, adjust};
    wire signed [9:0] token_wide = {{2{k[7]}}, k} + {{2{token[7]}}, token} - 10'sd16;
    wire [5:0]  token_shift = token_wide < 10'sd1 ? 6'd1 : token_wide > 10'sd62 ? 6'd62 : token_wide[5:0];
    wire        unused_bits = &{1'b0, at_bit[4:3], value_changed, held_wide, token_wide, highest};
    assign o_value        = copy ? value : value_kept;
    assign o_scalar       = copy ? value : quotients[32*turn_row +: 32];
    assign o_scalar_shift = copy || held_wide < 10'sd0 ? 6'd0 : held_wide > 10'sd63 ? 6'd63 : held_wide[5:0];
    assign o_token_word   = {mantissa_kept, token_shift};
    assign o_first        = active && !begun;
    assign o_write        = writing && write_turn <= INSIDE && i_run;
    assign o_done         = o_write && o_row == last;
    always @(posedge i_clk) begin
        if (i_begin) begin
            {kind, last, factor, add, shift} <= {i_function, i_last_row, i_factor, i_add, i_shift};
            {adjust, token} <= {i_adjust, i_token};
            lead       <= i_function == `AXL_ROW_COPY ? ROUNDED : i_function == `AXL_ROW_RSQRT ? ROOTED : DIVIDED;
            o_row      <= 6'd0;
            o_read_row <= 6'd0;
            {begun, all_read}       <= 2'b00;
            {read_turn, write_turn} <= 12'd0;
        end else if (active) begin
            begun <= 1'b1;
            if (lead != 6'd0) lead <= lead - 6'd1;
            read_turn <= read_turn == turn_last ? 6'd0 : read_turn + 6'd1;
            if (writing) write_turn <= write_turn == turn_last ? 6'd0 : write_turn + 6'd1;
            if (o_write) o_row <= o_row + 6'd1;
            if (read) o_read_row <= o_read_row + 6'd1;
            if (read && o_read_row == last) all_read <= 1'b1;
        end
        if (i_rst || o_done) active <= 1'b0;
        else if (i_begin) active <= 1'b1;
    end
endmodule
`default_nettype wire
