// AXI slave in front of a 16-bit SDR SDRAM of four banks: a burst is ACTIVATE, a column a cycle, PRECHARGE.
// Bursts do not cross a row (the masters' bursts lie within 256 bytes). R and B are taken when they come.
// The memory's clock is i_clk inverted, so commands arrive half a cycle after they leave. CAS latency 3, burst length 1.
// PADS counts the flip-flops between this module and the pins, there and back.
`default_nettype none
module sdram #(
    parameter BEAT_BYTES = 8,
    parameter CLOCK_MHZ  = 60,
    parameter COLUMNS    = 9,    // address bits of a row's 16-bit words
    parameter ROWS       = 13,
    parameter POWER_UP_US = 200,
    parameter PADS       = 0
) (
    input  wire                    i_clk,
    input  wire                    i_rst,
    output reg                     o_ready,
    input  wire                    i_arvalid,
    input  wire                    i_arid,
    output reg                     o_arready,
    input  wire [31:0]             i_araddr,
    input  wire [7:0]              i_arlen,
    output reg                     o_rvalid,
    output reg                     o_rid,
    output wire [8*BEAT_BYTES-1:0] o_rdata,
    output reg                     o_rlast,
    input  wire                    i_awvalid,
    output reg                     o_awready,
    input  wire [31:0]             i_awaddr,
    input  wire                    i_wvalid,
    output wire                    o_wready,
    input  wire [8*BEAT_BYTES-1:0] i_wdata,
    input  wire [BEAT_BYTES-1:0]   i_wstrb,
    input  wire                    i_wlast,
    output reg                     o_bvalid,
    output reg  [2:0]              o_command,   // RAS, CAS, WE, all active low
    output reg  [1:0]              o_bank,
    output reg  [12:0]             o_address,
    output reg  [1:0]              o_mask,
    output reg  [15:0]             o_dq,
    output reg                     o_drive,
    input  wire [15:0]             i_dq
);
    localparam HB     = $clog2(BEAT_BYTES / 2);
    localparam LOGB   = $clog2(BEAT_BYTES);
    localparam CAS    = 3 + PADS;  // cycles from READ to data
    localparam [2:0] NOP = 3'b111, ACTIVATE = 3'b011, READ = 3'b101, WRITE = 3'b100, PRECHARGE = 3'b010, REFRESH = 3'b001, MODE = 3'b000;
    // Cycles of a time in ns, rounded up, less the command's own cycle; the slowest parts on the board (JEDEC -7).
    localparam integer RCD_VALUE = (21 * CLOCK_MHZ + 999) / 1000 - 1;
    localparam integer RFC_VALUE = (70 * CLOCK_MHZ + 999) / 1000 - 1;
    localparam integer POWER_VALUE = POWER_UP_US * CLOCK_MHZ;
    localparam integer REFRESH_VALUE = 7 * CLOCK_MHZ;   // 7.8 us less the longest burst
    localparam [15:0] RCD = RCD_VALUE[15:0], RFC = RFC_VALUE[15:0], POWER_UP = POWER_VALUE[15:0], PERIOD = REFRESH_VALUE[15:0];
    localparam [15:0] RECOVER = RCD + 16'd2, DRAIN = 16'd3;
    localparam [2:0] START = 3'd0, REFRESHES = 3'd1, SETMODE = 3'd2, IDLE = 3'd3, OPEN = 3'd4, READS = 3'd5, WRITES = 3'd6,
                     CLOSE = 3'd7;

    reg  [2:0]         state;
    reg  [16:0]        wait_cycles;   // less one: below zero, nothing is waited for
    reg  [15:0]        since;
    reg                due, writing, last_write;
    reg  [3:0]         refreshes;
    reg  [31:0]        at;            // byte address of the burst's beat
    reg  [7:0]         left;          // beats after this one
    reg  [HB-1:0]      half;
    reg  [15:0]        dq;
    reg  [8*BEAT_BYTES-17:0] gathered;
    reg  [CAS:0]       coming, coming_end, coming_last;
    wire               waits = !wait_cycles[16];
    wire               take_write = i_awvalid && (!i_arvalid || !last_write);
    wire               last_half = half == {HB{1'b1}};
    wire [COLUMNS-1:0] column = {at[COLUMNS:LOGB], half};
    wire [ROWS-1:0]    row = at[COLUMNS+3 +: ROWS];
    wire [12:0]        row_address = {{(13-ROWS){1'b0}}, row};
    wire               unused_bits = &{1'b0, at[LOGB-1:0], at[31:COLUMNS+3+ROWS], i_wlast};
    initial o_command = NOP;
    assign o_wready  = state == WRITES && !waits && last_half;
    assign o_rdata   = {dq, gathered};

    always @(posedge i_clk) begin
        dq          <= i_dq;
        if (coming[CAS]) gathered <= o_rdata[8*BEAT_BYTES-1:16];
        o_rvalid    <= coming[CAS-1] && coming_end[CAS-1];
        o_rlast     <= coming_last[CAS-1];
        coming      <= {coming[CAS-1:0], 1'b0};
        coming_end  <= {coming_end[CAS-1:0], last_half};
        coming_last <= {coming_last[CAS-1:0], left == 8'd0};
        o_command   <= NOP;
        o_drive     <= 1'b0;
        o_mask      <= 2'b00;
        o_bank      <= at[COLUMNS+1 +: 2];
        o_address   <= row_address;
        o_dq        <= i_wdata[16*half +: 16];
        {o_awready, o_arready} <= 2'b00;
        if (waits) wait_cycles <= wait_cycles - 17'd1;
        since <= since == PERIOD ? 16'd0 : since + 16'd1;
        if (since == PERIOD) due <= 1'b1;
        if (i_rst) begin
            state       <= START;
            wait_cycles <= {1'b0, POWER_UP} - 17'd1;
            {o_ready, o_bvalid, o_rvalid, due, last_write} <= 5'd0;
            {since, refreshes, half} <= {16'd0, 4'd0, {HB{1'b0}}};
            coming      <= {(CAS+1){1'b0}};
        end else if (!waits) case (state)
            START: begin
                o_command     <= PRECHARGE;
                o_address[10] <= 1'b1;
                wait_cycles   <= {1'b0, RCD} - 17'd1;
                state         <= REFRESHES;
            end
            REFRESHES: begin
                o_command   <= REFRESH;
                wait_cycles <= {1'b0, RFC} - 17'd1;
                refreshes   <= refreshes + 4'd1;
                if (refreshes == 4'd7) state <= SETMODE;
            end
            SETMODE: begin
                o_command   <= MODE;
                o_bank      <= 2'b00;
                o_address   <= 13'h030;  // CAS latency 3, sequential, burst length 1
                wait_cycles <= 17'd2;
                state       <= IDLE;
            end
            IDLE: begin
                o_ready <= 1'b1;
                if (due) begin
                    o_command   <= REFRESH;
                    wait_cycles <= {1'b0, RFC} - 17'd1;
                    due         <= 1'b0;
                end else if (take_write || i_arvalid) begin
                    at         <= take_write ? i_awaddr : i_araddr;
                    left       <= i_arlen;
                    writing    <= take_write;
                    o_rid      <= i_arid;
                    last_write <= take_write;
                    state      <= OPEN;
                    {o_awready, o_arready} <= {take_write, !take_write};
                end
            end
            OPEN: begin
                o_command   <= ACTIVATE;
                wait_cycles <= {1'b0, RCD} - 17'd1;
                state       <= writing ? WRITES : READS;
            end
            READS: begin
                o_command <= READ;
                o_address <= {{(13-COLUMNS){1'b0}}, column};
                coming[0] <= 1'b1;
                half      <= half + 1'b1;
                if (last_half) begin
                    at   <= at + BEAT_BYTES;
                    left <= left - 8'd1;
                    if (left == 8'd0) begin
                        wait_cycles <= {1'b0, DRAIN} - 17'd1;
                        state       <= CLOSE;
                    end
                end
            end
            WRITES: if (i_wvalid) begin
                o_command <= WRITE;
                o_address <= {{(13-COLUMNS){1'b0}}, column};
                o_drive   <= 1'b1;
                o_mask    <= ~i_wstrb[2*half +: 2];
                half      <= half + 1'b1;
                if (last_half) begin
                    at <= at + BEAT_BYTES;
                    if (i_wlast) begin
                        wait_cycles <= {1'b0, RECOVER} - 17'd1;
                        state       <= CLOSE;
                    end
                end
            end
            CLOSE: begin
                o_command     <= PRECHARGE;
                o_address[10] <= 1'b1;
                wait_cycles   <= {1'b0, RCD} - 17'd1;
                o_bvalid      <= writing;
                state         <= IDLE;
            end
        endcase
        if (o_bvalid) o_bvalid <= 1'b0;
    end
endmodule
`default_nettype wire
