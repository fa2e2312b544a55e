// Fetch: LOOKUP, DECODE, RESOLVE, ISSUE, and REQ on a miss; registers R0..R15 and windows of R16..R31, four nested loops. In RESOLVE the instruction
// at place k of its line asks for the line k + 1 behind it, if that is neither there nor on its way.
`default_nettype none
`include "axlora_isa.vh"
module fetch #(
    parameter BEAT_BYTES      = 8,
    parameter TOKENS          = 2,
    parameter LANES           = 8,
    parameter PORTS           = 4,
    parameter ACTIVATION_BITS = 8,
    parameter GROUP_SCALES    = 1,
    parameter U8_ALLOWED      = 1,
    parameter ICACHE_LINES    = 16,
    parameter WINDOWS         = 1
) (
    input  wire                       i_clk,
    input  wire                       i_rst,
    input  wire                       i_start,
    input  wire                       i_stop,
    input  wire                       i_overflowed,  // i_stop follows: no HALT
    input  wire [31:0]                i_program,
    input  wire [31:0]                i_limit,
    input  wire                       i_host_write,
    input  wire [7:0]                 i_host_register,
    input  wire [31:0]                i_host_data,
    output wire [31:0]                o_host_data,
    output wire                       o_request,
    output wire [31:0]                o_request_address,
    input  wire                       i_grant,
    input  wire                       i_beat,
    input  wire                       i_last,
    input  wire                       i_bad,
    input  wire [8*BEAT_BYTES-1:0]    i_data,
    output wire [3:0]                 o_push,
    output wire [`AXL_ENTRY_BITS-1:0] o_entry,
    input  wire [3:0]                 i_full,
    input  wire                       i_all_quiet,
    output reg                        o_running,
    output wire                       o_halt,
    output wire [3:0]                 o_error,
    output wire [31:0]                o_pc,
    output wire                       o_leave,
    output wire                       o_count_busy,
    output wire                       o_count_miss,
    output wire                       o_count_queue,
    output wire                       o_count_halt
);
    localparam [2:0] IDLE = 3'd0, LOOKUP = 3'd1, DECODE = 3'd2, ISSUE = 3'd3, REQ = 3'd4, RESOLVE = 3'd5;
    localparam [31:0] LINES = ICACHE_LINES[31:0];
    reg  [2:0]   state;
    reg  [31:0]  pc;
    wire         known, hit, ahead_known;
    wire [127:0] cached;
    reg  [127:0] word;
    // The instruction at ISSUE
    reg  [3:0]   legals;
    wire         legal = &legals;
    reg  [3:0]   chosen;  // the queue it goes to, one bit; 0: none
    reg  [5:0]   op, sub;
    reg  [16:0]  misc;
    reg  [31:0]  x;
    reg  [15:0]  y, z;
    reg  [9:0]   waits, posts;
    // The line ahead: its number is there in DECODE, whether it is wanted in RESOLVE.
    reg  [25:0] ahead;
    reg         wanted;
    icache #(.BEAT_BYTES(BEAT_BYTES), .LINES(ICACHE_LINES)) u_cache (
        .i_clk(i_clk), .i_clear(i_rst || i_start), .i_pc(pc), .o_known(known), .o_hit(hit), .o_word(cached),
        .i_ahead(ahead), .o_ahead_known(ahead_known), .i_ask(i_grant), .i_ask_line(o_request_address[31:6]),
        .i_beat(i_beat), .i_last(i_last), .i_data(i_data));
    wire [31:0] apart = {30'd0, pc[5:4]} + 32'd1;
    always @(posedge i_clk) begin
        ahead  <= pc[31:6] + apart[25:0];
        wanted <= state == DECODE ? !ahead_known && apart < LINES && {ahead, 6'd0} < i_limit && cached[`AXL_WORD_OP] != `AXL_OP_HALT
                                  : wanted && !i_grant;
    end
    reg  [2:0] flights;  // lines asked for that are not there
    wire       crowded = flights == `AXL_FETCH_FLIGHTS, ask = state == REQ || (state == RESOLVE && wanted);
    wire       waiting = ask && !i_grant;
    always @(posedge i_clk) flights <= i_rst ? 3'd0 : flights + {2'd0, i_grant} - {2'd0, i_beat && i_last};

    // DECODE: the word is there, and R[rx] and so on are read. RESOLVE: X = x + R[rx].
    wire [4:0]  select_z = cached[`AXL_WORD_RZ], select_y = cached[`AXL_WORD_RY], select_x = cached[`AXL_WORD_RX];
    wire        set;
    wire [31:0] read_x, read_y, read_z;
    // R0..R15 come first, then R16..R31 of each window: what a field names is in the window that WINDOW chose.
    localparam REGISTERS = 16 + 16 * WINDOWS, ADDRESS = $clog2(REGISTERS);
    localparam [8:0] LAST = REGISTERS[8:0] - 9'd1;
    reg  [ADDRESS-5:0] page;  // of R16..R31
    wire [3:0]         page_next = x[3:0] + 4'd1;
    wire [ADDRESS-1:0] place_x = {select_x[4] ? page : {ADDRESS-4{1'b0}}, select_x[3:0]};
    wire [ADDRESS-1:0] place_y = {select_y[4] ? page : {ADDRESS-4{1'b0}}, select_y[3:0]};
    wire [ADDRESS-1:0] place_z = {select_z[4] ? page : {ADDRESS-4{1'b0}}, select_z[3:0]};
    wire [ADDRESS-1:0] place_host = i_host_register[ADDRESS-1:0];
    wire [ADDRESS-1:0] set_place = {{ADDRESS-3{1'b0}}, misc[2:0]};  // SET writes R1..R7
    wire               there = {1'b0, i_host_register} <= LAST;
    wire [ADDRESS-1:0] write_register = o_running ? set_place : place_host;
    wire [31:0] write_data = o_running ? x : i_host_data;
    wire        write = set || (i_host_write && there && !o_running);
    ram_lut #(.WIDTH(32), .DEPTH(REGISTERS)) u_registers_x (
        .i_clk(i_clk), .i_write(write), .i_write_address(write_register), .i_write_data(write_data),
        .i_read_address(place_x), .o_read_data(read_x));
    ram_lut #(.WIDTH(32), .DEPTH(REGISTERS)) u_registers_y (
        .i_clk(i_clk), .i_write(write), .i_write_address(write_register), .i_write_data(write_data),
        .i_read_address(place_y), .o_read_data(read_y));
    ram_lut #(.WIDTH(32), .DEPTH(REGISTERS)) u_registers_z (
        .i_clk(i_clk), .i_write(write), .i_write_address(write_register), .i_write_data(write_data),
        .i_read_address(place_z), .o_read_data(read_z));
    wire [31:0] read_host;
    ram_lut #(.WIDTH(32), .DEPTH(REGISTERS)) u_registers_host (
        .i_clk(i_clk), .i_write(write), .i_write_address(write_register), .i_write_data(write_data),
        .i_read_address(place_host), .o_read_data(read_host));
    reg  [31:0] value_x;
    reg  [15:0] value_y, value_z;
    always @(posedge i_clk) begin
        word    <= cached;
        value_x <= select_x == 5'd0 ? 32'd0 : read_x;
        value_y <= select_y == 5'd0 ? 16'd0 : read_y[15:0];
        value_z <= select_z == 5'd0 ? 16'd0 : read_z[15:0];
    end
    wire [31:0] sum_x   = word[`AXL_WORD_X] + value_x;
    wire        unused_high = &{1'b0, read_y[31:16], read_z[31:16], page_next};
    assign o_host_data = i_host_register == 8'd0 || !there ? 32'd0 : read_host;

    wire [3:0] legal_next;
    wire [3:0] unit_next;
    decode #(.TOKENS(TOKENS), .LANES(LANES), .PORTS(PORTS), .BEAT_BYTES(BEAT_BYTES), .ACTIVATION_BITS(ACTIVATION_BITS), .GROUP_SCALES(GROUP_SCALES),
             .U8_ALLOWED(U8_ALLOWED), .WINDOWS(WINDOWS)) u_decode (
        .i_word(word), .i_x(sum_x), .o_legal(legal_next), .o_unit(unit_next));

    // ISSUE
    always @(posedge i_clk)
        if (state == RESOLVE) begin
            legals <= legal_next;
            chosen <= unit_next == `AXL_UNIT_FETCH ? 4'd0 : 4'd1 << (unit_next[1:0] - 2'd1);
            op    <= word[`AXL_WORD_OP];
            waits <= {word[`AXL_WORD_WAIT_B], word[`AXL_WORD_WAIT_A]};
            posts <= {word[`AXL_WORD_POST_B], word[`AXL_WORD_POST_A]};
            sub   <= word[`AXL_WORD_SUB];
            misc  <= word[`AXL_WORD_MISC];
            x     <= sum_x;
            y     <= word[`AXL_WORD_Y] + value_y;
            z     <= word[`AXL_WORD_Z] + value_z;
        end
    assign o_entry = {pc, posts, waits, op, sub, misc, x, y, z};

    wire [31:0] loop_target;
    wire        loop_error, loop_skip, loop_back;
    wire        issue   = state == ISSUE && legal && !i_stop;
    wire        full    = (i_full & chosen) != 4'd0;
    wire        halt    = op == `AXL_OP_HALT;
    wire        at_rest = i_all_quiet && flights == 3'd0;
    assign o_leave = issue && !full && !(halt && (!at_rest || i_overflowed)) && !loop_error;
    assign o_push  = issue ? chosen & ~i_full : 4'd0;
    assign o_halt  = issue && halt && at_rest && !i_overflowed;
    assign set     = issue && op == `AXL_OP_SET;
    always @(posedge i_clk)
        if (i_rst || i_start) page <= {{ADDRESS-5{1'b0}}, 1'b1};
        else if (issue && op == `AXL_OP_WINDOW) page <= page_next[ADDRESS-5:0];
    loops u_loops (
        .i_clk(i_clk), .i_rst(i_rst || i_start), .i_loop(issue && op == `AXL_OP_LOOP), .i_end(issue && op == `AXL_OP_ENDLOOP),
        .i_pc(pc), .i_length(y), .i_count(z), .o_target(loop_target), .o_skip(loop_skip), .o_back(loop_back),
        .o_error(loop_error));

    wire beyond = pc >= i_limit;
    assign o_request         = ask && !crowded && !i_stop;
    assign o_request_address = {state == RESOLVE ? ahead : pc[31:6], 6'd0};
    assign o_pc              = pc;
    assign o_error = state == LOOKUP && beyond          ? `AXL_ERROR_MEMORY_ADDRESS
                   : state == ISSUE && !legal           ? `AXL_ERROR_ILLEGAL
                   : loop_error                         ? `AXL_ERROR_LOOP
                   : o_running && i_beat && i_bad       ? `AXL_ERROR_AXI_READ : `AXL_ERROR_NONE;
    wire   coming = state == LOOKUP && known && !hit;
    assign o_count_busy  = (state == LOOKUP && !coming) || state == DECODE || (state == RESOLVE && !waiting) || o_leave;
    assign o_count_miss  = state == REQ || coming || (state == RESOLVE && waiting);
    assign o_count_queue = issue && full;
    assign o_count_halt  = issue && halt && !at_rest;

    reg  [2:0]  state_next;
    reg  [31:0] pc_next;
    always @* begin
        state_next = state;
        pc_next    = pc;
        if (i_rst) {state_next, pc_next} = {IDLE, 32'd0};
        else if (i_start) {state_next, pc_next} = {LOOKUP, i_program};  // also after an error: i_stop falls a cycle later
        else if (i_stop) state_next = IDLE;
        else
            case (state)
                LOOKUP: if (!beyond && !coming) state_next = hit ? DECODE : REQ;
                DECODE: state_next = RESOLVE;
                RESOLVE: if (!waiting) state_next = ISSUE;
                ISSUE:
                    if (o_halt) state_next = IDLE;
                    else if (o_leave) begin
                        state_next = LOOKUP;
                        pc_next    = loop_skip || loop_back ? loop_target : pc + 32'd16;
                    end
                REQ: if (i_grant) state_next = LOOKUP;
                default: state_next = IDLE;
            endcase
    end
    always @(posedge i_clk) begin
        state     <= state_next;
        pc        <= pc_next;
        o_running <= state_next != IDLE;
    end
endmodule
`default_nettype wire
