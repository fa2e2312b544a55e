// Load: memory to WBUF, ABUF, PBUF, TBUF, SBUF, CBUF, FBUF, and to WBUF column by column (WKEY). Bursts are asked for while fewer than OUTSTANDING are in flight;
// an arriving beat is registered once and written to local beat address Y + index.
`default_nettype none
`include "axlora_isa.vh"
module load #(
    parameter BEAT_BYTES  = 8,
    parameter BURST_BEATS = 16,
    parameter OUTSTANDING = 2,
    parameter WBUF_BEATS  = 4096,
    parameter ABUF_BEATS  = 512,
    parameter PBUF_BEATS  = 512,
    parameter TBUF_BEATS  = 512,
    parameter SBUF_BEATS  = 512,
    parameter CBUF_BEATS  = 512,
    parameter FBUF_BEATS  = 512,
    parameter LANES       = 8,
    parameter PORTS       = 4,
    parameter WBUF_LINES  = 4096
) (
    input  wire                       i_clk,
    input  wire                       i_rst,
    input  wire                       i_run,
    input  wire [31:0]                i_limit,
    input  wire [31:0]                i_base,
    input  wire                       i_accept,
    input  wire [`AXL_ENTRY_BITS-1:0] i_entry,
    input  wire                       i_busy,
    output wire                       o_done,
    output wire                       o_request,
    output wire [31:0]                o_request_address,
    output wire [7:0]                 o_request_length,
    input  wire                       i_grant,
    input  wire                       i_beat,
    input  wire                       i_last,
    input  wire                       i_bad,
    input  wire [8*BEAT_BYTES-1:0]    i_data,
    output reg  [6:0]                 o_write,
    output reg  [23:0]                o_key,
    output reg  [20:0]                o_write_beat,
    output reg  [8*BEAT_BYTES-1:0]    o_write_data,
    output wire [3:0]                 o_error
);
    localparam [3:0] MOST = OUTSTANDING[3:0];
    localparam [20:0] W = WBUF_BEATS[20:0], A = ABUF_BEATS[20:0], P = PBUF_BEATS[20:0], T = TBUF_BEATS[20:0];
    localparam [20:0] S = SBUF_BEATS[20:0], C = CBUF_BEATS[20:0], F = FBUF_BEATS[20:0], LINES = WBUF_LINES[20:0];
    localparam integer PARTS_VALUE = LANES / BEAT_BYTES > 0 ? LANES / BEAT_BYTES : 1, COLUMN_VALUE = PORTS - 1;
    localparam [4:0] PARTS = PARTS_VALUE[4:0];
    localparam [3:0] LAST_COLUMN = COLUMN_VALUE[3:0];
    reg         finish;
    reg  [3:0]  bursts;
    reg  [2:0]  buffer;
    reg  [20:0] local_beat;
    wire        empty, left, ready, last_burst, bad_burst;
    wire [6:0]  beats;
    wire        want = i_busy && left && ready && bursts < MOST;
    wire        here = i_beat && i_busy && i_run;
    reg  [20:0] depth;
    wire        outside = local_beat >= depth;
    wire [5:0]  sub  = i_entry[`AXL_ENTRY_SUB];
    wire        unused_entry = &{1'b0, i_entry, sub, last_burst};

    // WKEY: a row of `row` beats is one column; local_beat is its line, tile the first line of this tile of columns.
    wire        keys = buffer == `AXL_BUFFER_WKEY;
    reg  [16:0] last, at;  // beats of a row, less one
    reg  [3:0]  part, column;
    reg  [20:0] tile;
    wire        row_end  = at == last;
    wire        line_end = {1'b0, part} == PARTS - 5'd1;
    wire        tile_end = column == LAST_COLUMN;
    wire [20:0] key_next = row_end ? (tile_end ? local_beat + 21'd1 : tile) : line_end ? local_beat + 21'd1 : local_beat;

    always @*
        case (buffer)
            `AXL_BUFFER_WBUF: depth = W;
            `AXL_BUFFER_ABUF: depth = A;
            `AXL_BUFFER_PBUF: depth = P;
            `AXL_BUFFER_TBUF: depth = T;
            `AXL_BUFFER_SBUF: depth = S;
            `AXL_BUFFER_CBUF: depth = C;
            `AXL_BUFFER_FBUF: depth = F;
            default: depth = LINES;
        endcase

    burst #(.BEAT_BYTES(BEAT_BYTES), .BURST_BEATS(BURST_BEATS)) u_burst (
        .i_clk(i_clk), .i_run(i_run), .i_begin(i_accept), .i_address(i_entry[`AXL_ENTRY_X]), .i_row(i_entry[`AXL_ENTRY_MISC]),
        .i_rows(i_entry[`AXL_ENTRY_Z]), .o_empty(empty), .i_next(i_grant), .i_limit(i_limit), .i_base(i_base),
        .o_left(left), .o_ready(ready), .o_address(o_request_address), .o_beats(beats), .o_last(last_burst), .o_bad(bad_burst));
    assign o_request        = want && !bad_burst;
    assign o_request_length = {1'b0, beats} - 8'd1;
    assign o_done           = finish && i_run;
    assign o_error = here && i_bad      ? `AXL_ERROR_AXI_READ
                   : here && outside    ? `AXL_ERROR_LOCAL_ADDRESS
                   : want && i_run && bad_burst ? `AXL_ERROR_MEMORY_ADDRESS : `AXL_ERROR_NONE;
    always @(posedge i_clk) begin
        o_write_beat <= local_beat;
        o_write_data <= i_data;
        if (i_accept) begin
            buffer     <= sub[`AXL_LOAD_BUFFER];
            last       <= i_entry[`AXL_ENTRY_MISC] - 17'd1;
            local_beat <= {5'd0, i_entry[`AXL_ENTRY_Y]};
            tile       <= {5'd0, i_entry[`AXL_ENTRY_Y]};
            at         <= 17'd0;
            part       <= 4'd0;
            column     <= 4'd0;
        end else if (here) begin
            local_beat <= keys ? key_next : local_beat + 21'd1;
            at         <= row_end ? 17'd0 : at + 17'd1;
            part       <= row_end || line_end ? 4'd0 : part + 4'd1;
            if (row_end) column <= tile_end ? 4'd0 : column + 4'd1;
            if (row_end && tile_end) tile <= local_beat + 21'd1;
        end
        if (i_rst) begin
            finish  <= 1'b0;
            bursts  <= 4'd0;
            o_write <= 7'd0;
            o_key   <= 24'd0;
        end else begin
            bursts  <= bursts + {3'd0, i_grant} - {3'd0, i_beat && i_last};
            finish  <= (i_accept && empty) || (here && i_last && !left && bursts == 4'd1);
            o_write <= here && !i_bad && !outside && !keys ? 7'd1 << buffer : 7'd0;
            o_key   <= {here && !i_bad && !outside && keys, column, part, local_beat[14:0]};
        end
    end
endmodule
`default_nettype wire
