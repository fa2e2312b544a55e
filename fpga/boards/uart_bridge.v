// The host's side of a board: frames over a serial line to AXI bursts and register accesses (docs/board.md).
//   request: A5, sequence, operation, address (4 bytes), count (2), payload, CRC (2)
//   reply:   5A, sequence, status, payload, CRC (2)
// Numbers are little-endian; the CRC (crc16.v) covers all but the first byte and itself, high byte first.
`default_nettype none
module uart_bridge #(
    parameter BEAT_BYTES = 8,
    parameter DIVIDER    = 20,
    parameter GAP        = 1 << 20
) (
    input  wire                    i_clk,
    input  wire                    i_rst,
    input  wire                    i_rx,
    output wire                    o_tx,
    input  wire                    i_busy,
    output reg                     o_register,
    output wire                    o_register_write,
    output reg  [15:0]             o_register_address,
    output reg  [31:0]             o_register_data,
    input  wire                    i_register_done,
    input  wire [31:0]             i_register_data,
    output wire                    o_memory,
    output reg                     o_arvalid,
    input  wire                    i_arready,
    output reg  [31:0]             o_addr,
    output wire [7:0]              o_len,
    input  wire                    i_rvalid,
    input  wire [8*BEAT_BYTES-1:0] i_rdata,
    input  wire                    i_rbad,
    input  wire                    i_rlast,
    output reg                     o_awvalid,
    input  wire                    i_awready,
    output reg                     o_wvalid,
    input  wire                    i_wready,
    output wire [8*BEAT_BYTES-1:0] o_wdata,
    output wire                    o_wlast,
    input  wire                    i_bvalid,
    input  wire                    i_bbad
);
    localparam ROWS = 256 / BEAT_BYTES;
    localparam RA   = $clog2(ROWS);
    localparam LOGB = $clog2(BEAT_BYTES);
    localparam GB   = $clog2(GAP);
    // Operations; 1 writes memory.
    localparam [2:0] READ = 3'd0, FILL = 3'd2, READ_REGISTERS = 3'd3, WRITE_REGISTERS = 3'd4;
    localparam [7:0] GOOD = 8'd0, BAD_REQUEST = 8'd1, MEMORY_ERROR = 8'd2, BUSY = 8'd3, BAD_CRC = 8'd4;
    localparam [3:0] SYNC = 4'd0, HEAD = 4'd1, PAYLOAD = 4'd2, CRC = 4'd3, CHECK = 4'd4, MEMORY = 4'd5, REGISTERS = 4'd6,
                     ANSWER = 4'd7, ANSWER_DATA = 4'd8, ANSWER_CRC = 4'd9;
    localparam integer ROWS_VALUE = ROWS, LAST_ROW_VALUE = ROWS - 1, LAST_OF_BEAT = BEAT_BYTES - 1;
    localparam [15:0] MOST = ROWS_VALUE[15:0];
    localparam [RA:0] LAST_ROW = LAST_ROW_VALUE[RA:0];

    wire        got, ready;
    wire [7:0]  byte_in;
    reg         send;
    reg  [7:0]  byte_out;
    uart_rx #(.DIVIDER(DIVIDER)) u_rx (.i_clk(i_clk), .i_rst(i_rst), .i_rx(i_rx), .o_valid(got), .o_data(byte_in));
    uart_tx #(.DIVIDER(DIVIDER)) u_tx (
        .i_clk(i_clk), .i_rst(i_rst), .i_valid(send), .o_ready(ready), .i_data(byte_out), .o_tx(o_tx));

    reg  [3:0]              state;
    reg  [63:0]             header;        // sequence, operation, address, count: first byte lowest
    reg  [3:0]              at;            // byte of the header, of a row, or of a CRC
    reg  [RA:0]             row;           // rows done
    reg  [8*BEAT_BYTES-9:0] shift;         // of a row all bytes but the last
    reg  [15:0]             crc, blocks;
    reg  [7:0]              status;
    reg  [GB-1:0]           gap;
    reg                     covered;       // the CRC covers the byte being sent
    wire [7:0]              sequence_number = header[7:0];
    wire [2:0]              operation = header[10:8];
    wire [31:0]             address = header[47:16];
    wire [15:0]             count = header[63:48];
    wire                    registers = operation == READ_REGISTERS || operation == WRITE_REGISTERS;
    reg                     legal;  // of a header that has been there for a cycle
    wire                    legal_next = header[15:11] == 5'd0 && operation <= WRITE_REGISTERS && count != 16'd0
                                    && (registers ? count <= MOST && address[1:0] == 2'd0
                                        : operation == FILL ? address[7:0] == 8'd0
                                        : address[LOGB-1:0] == {LOGB{1'b0}} && {8'd0, address[7:0] >> LOGB} + count <= MOST);
    wire [3:0]              last_byte = registers ? 4'd3 : LAST_OF_BEAT[3:0];
    wire                    last_row = operation == FILL ? row == LAST_ROW : row == count[RA:0] - 1'b1;
    wire [15:0]             crc_next;
    wire [8*BEAT_BYTES-1:0] kept;
    wire                    full = state == PAYLOAD && got && at == last_byte;
    wire                    read_beat = state == MEMORY && i_rvalid;
    wire                    read_word = state == REGISTERS && i_register_done && operation == READ_REGISTERS;
    wire [8*BEAT_BYTES-1:0] with_byte = {byte_in, shift};
    wire [8*BEAT_BYTES:0]   word_in = {{(8*BEAT_BYTES-31){1'b0}}, i_register_data};
    wire                    unused_top = word_in[8*BEAT_BYTES];
    // A register's four bytes lie at the top of the shifted row.
    wire [8*BEAT_BYTES-1:0] row_in = state == PAYLOAD ? (registers ? with_byte >> (8 * BEAT_BYTES - 32) : with_byte)
                                   : read_beat ? i_rdata : word_in[8*BEAT_BYTES-1:0];
    ram_lut #(.WIDTH(8*BEAT_BYTES), .DEPTH(ROWS)) u_rows (
        .i_clk(i_clk), .i_write(full || read_beat || read_word), .i_write_address(row[RA-1:0]), .i_write_data(row_in),
        .i_read_address(row[RA-1:0]), .o_read_data(kept));
    crc16 u_crc (.i_crc(crc), .i_data(send ? byte_out : byte_in), .o_next(crc_next));

    assign o_register_write   = operation == WRITE_REGISTERS;
    assign o_memory           = state == MEMORY;
    assign o_len              = operation == FILL ? MOST[7:0] - 8'd1 : count[7:0] - 8'd1;
    assign o_wdata            = operation == FILL ? {8*BEAT_BYTES{1'b0}} : kept;
    assign o_wlast            = last_row;

    always @(posedge i_clk) begin
        legal              <= legal_next;
        o_register_address <= address[15:0] + {{(13-RA){1'b0}}, row, 2'b00};
        o_register_data    <= kept[31:0];
        gap  <= state == SYNC || got ? {GB{1'b0}} : gap + 1'b1;
        send <= 1'b0;
        if (i_rst) begin
            state <= SYNC;
            {o_register, o_arvalid, o_awvalid, o_wvalid} <= 4'd0;
        end else case (state)
            SYNC: begin
                {at, row, crc, status} <= {4'd0, {(RA+1){1'b0}}, 16'hFFFF, GOOD};
                if (got && byte_in == 8'hA5) state <= HEAD;
            end
            HEAD: if (got) begin
                header <= {byte_in, header[63:8]};
                crc    <= crc_next;
                at     <= at == 4'd7 ? 4'd0 : at + 4'd1;
                if (at == 4'd7) state <= {byte_in, header[63:56]} != 16'd0 && {byte_in, header[63:56]} <= MOST
                                         && (header[23:16] == 8'd1 || header[23:16] == 8'd4) ? PAYLOAD : CRC;
            end
            PAYLOAD: if (got) begin
                shift <= with_byte[8*BEAT_BYTES-1:8];
                crc   <= crc_next;
                at    <= full ? 4'd0 : at + 4'd1;
                if (full) row <= row + 1'b1;
                if (full && last_row) state <= CRC;
            end
            CRC: if (got) begin
                crc <= {crc[7:0], crc[15:8]};
                at  <= at + 4'd1;
                if (byte_in != crc[15:8]) status <= BAD_CRC;
                if (at == 4'd1) state <= CHECK;
            end
            CHECK: begin
                {at, row, crc, blocks} <= {4'd0, {(RA+1){1'b0}}, 16'hFFFF, 16'd0};
                o_addr <= address;
                state  <= ANSWER;
                if (status == GOOD) begin
                    if (!legal) status <= BAD_REQUEST;
                    else if (registers) state <= REGISTERS;
                    else if (i_busy) status <= BUSY;
                    else begin
                        state     <= MEMORY;
                        o_arvalid <= operation == READ;
                        o_awvalid <= operation != READ;
                    end
                end
            end
            REGISTERS: begin
                o_register <= !i_register_done;
                if (i_register_done) begin
                    row <= last_row ? {(RA+1){1'b0}} : row + 1'b1;
                    if (last_row) state <= ANSWER;
                end
            end
            MEMORY: begin
                if (i_arready) o_arvalid <= 1'b0;
                if (o_awvalid && i_awready) begin
                    o_awvalid <= 1'b0;
                    o_wvalid  <= 1'b1;
                end
                if (o_wvalid && i_wready) begin
                    row      <= row + 1'b1;
                    o_wvalid <= !last_row;
                end
                if (i_rvalid) row <= row + 1'b1;
                if ((i_rvalid && i_rbad) || (i_bvalid && i_bbad)) status <= MEMORY_ERROR;
                if (i_bvalid) begin
                    row    <= {(RA+1){1'b0}};
                    blocks <= blocks + 16'd1;
                    o_addr <= o_addr + 32'd256;
                    if (operation == FILL && blocks + 16'd1 != count) o_awvalid <= 1'b1;
                    else state <= ANSWER;
                end
                if (i_rvalid && i_rlast) begin
                    row   <= {(RA+1){1'b0}};
                    state <= ANSWER;
                end
            end
            default: begin  // the reply: a byte whenever the sender is free
                if (send && covered) crc <= crc_next;
                if (ready && !send) begin
                    send    <= 1'b1;
                    covered <= state == ANSWER_DATA || (state == ANSWER && at != 4'd0);
                    at      <= at + 4'd1;
                    if (state == ANSWER) begin
                        byte_out <= at == 4'd0 ? 8'h5A : at == 4'd1 ? sequence_number : status;
                        if (at == 4'd2) begin
                            at    <= 4'd0;
                            state <= status == GOOD && (operation == READ || operation == READ_REGISTERS) ? ANSWER_DATA : ANSWER_CRC;
                        end
                    end else if (state == ANSWER_DATA) begin
                        byte_out <= kept[8*at[LOGB-1:0] +: 8];
                        if (at == last_byte) begin
                            at  <= 4'd0;
                            row <= row + 1'b1;
                            if (last_row) state <= ANSWER_CRC;
                        end
                    end else begin
                        byte_out <= at == 4'd0 ? crc[15:8] : crc[7:0];
                        if (at == 4'd1) state <= SYNC;
                    end
                end
            end
        endcase
        if (!i_rst && gap == {GB{1'b1}} && (state == HEAD || state == PAYLOAD || state == CRC)) state <= SYNC;
    end
endmodule
`default_nettype wire
