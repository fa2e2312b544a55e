// The five units, their buffers, semaphores, errors and counters. i_start and i_reset put every unit's state machine at rest.
`default_nettype none
`include "axlora_isa.vh"
module axlora_core #(
    `AXL_PARAMETERS
) (
    input  wire                    i_clk,
    input  wire                    i_power,
    input  wire                    i_reset,
    input  wire                    i_drain,
    input  wire                    i_start,
    input  wire [31:0]             i_program,
    input  wire [31:0]             i_base,
    input  wire [31:0]             i_limit,
    input  wire [31:0]             i_watchdog,
    input  wire                    i_host_write,
    input  wire [7:0]              i_host_register,
    input  wire [31:0]             i_host_data,
    output wire [31:0]             o_host_data,
    input  wire [8:0]              i_counter,
    output wire [63:0]             o_counter,
    output wire                    o_running,
    output wire                    o_axi_busy,
    output wire                    o_halt,
    output wire                    o_error,
    output wire [3:0]              o_error_code,
    output wire [3:0]              o_error_unit,
    output wire [31:0]             o_error_pc,
    output wire                    o_arvalid,
    input  wire                    i_arready,
    output wire                    o_arid,
    output wire [31:0]             o_araddr,
    output wire [7:0]              o_arlen,
    input  wire                    i_rvalid,
    input  wire                    i_rid,
    input  wire [8*BEAT_BYTES-1:0] i_rdata,
    input  wire                    i_rbad,
    input  wire                    i_rlast,
    output wire                    o_awvalid,
    input  wire                    i_awready,
    output wire [31:0]             o_awaddr,
    output wire [7:0]              o_awlen,
    output wire                    o_wvalid,
    input  wire                    i_wready,
    output wire [8*BEAT_BYTES-1:0] o_wdata,
    output wire                    o_wlast,
    output wire [BEAT_BYTES-1:0]   o_wstrb,
    input  wire                    i_bvalid,
    input  wire                    i_bbad
);
    localparam SBYTES = 2 * PORTS > BEAT_BYTES ? 2 * PORTS : BEAT_BYTES;
    localparam AADDR = $clog2(ACC_WORDS), PADDR = $clog2(PBUF_GROUPS), OADDR = $clog2(OBUF_BEATS), UADDR = $clog2(UBUF_LINES);
    localparam SADDR = $clog2(SBUF_LINES), TADDR = $clog2(TBUF_TOKENS), LLANE = $clog2(LANES);
    localparam PBEATS = 8 * PORTS * PBUF_GROUPS / BEAT_BYTES, SBEATS = SBYTES * SBUF_LINES / BEAT_BYTES;
    localparam E = `AXL_ENTRY_BITS;
    wire rst = i_power || i_reset || i_start;
    wire stop, overflowed;
    wire run = !stop;  // nothing is left in the units when fetch has halted

    // Fetch, arbiter
    wire         fetch_request, fetch_grant, load_request, load_grant, leave, read_active, store_active;
    wire [31:0]  fetch_address, load_address;
    wire [7:0]   load_length;
    wire [3:0]   push, full, quiet, single, done, busy, accept;
    wire [3:0]   fetch_error, load_error, matrix_error, vector_error, store_error;
    wire [E-1:0] entry;
    wire [4*E-1:0]  head;
    wire [159:0]    pcs;
    wire            fetch_beat = i_rvalid && !i_rid, load_beat = i_rvalid && i_rid;
    wire            count_busy, count_miss, count_queue, count_halt;
    fetch #(.BEAT_BYTES(BEAT_BYTES), .TOKENS(TOKENS), .LANES(LANES), .PORTS(PORTS), .ACTIVATION_BITS(ACTIVATION_BITS), .GROUP_SCALES(GROUP_SCALES),
            .U8_ALLOWED(INDEX_ENTRIES == 256 || ENGINE != `AXL_ENGINE_REUSE ? 1 : 0), .ICACHE_LINES(ICACHE_LINES), .WINDOWS(WINDOWS)) u_fetch (
        .i_clk(i_clk), .i_rst(i_power || i_reset), .i_start(i_start), .i_stop(stop), .i_overflowed(overflowed), .i_program(i_program),
        .i_limit(i_limit), .i_host_write(i_host_write), .i_host_register(i_host_register), .i_host_data(i_host_data),
        .o_host_data(o_host_data), .o_request(fetch_request), .o_request_address(fetch_address), .i_grant(fetch_grant),
        .i_beat(fetch_beat), .i_last(i_rlast), .i_bad(i_rbad), .i_data(i_rdata), .o_push(push), .o_entry(entry),
        .i_full(full), .i_all_quiet(&quiet), .o_running(o_running), .o_halt(o_halt), .o_error(fetch_error), .o_pc(pcs[31:0]),
        .o_leave(leave), .o_count_busy(count_busy), .o_count_miss(count_miss), .o_count_queue(count_queue),
        .o_count_halt(count_halt));
    read_arbiter #(.BEAT_BYTES(BEAT_BYTES)) u_arbiter (
        .i_clk(i_clk), .i_rst(i_power), .i_base(i_base), .i_fetch_request(fetch_request), .i_fetch_address(fetch_address),
        .o_fetch_grant(fetch_grant), .i_load_request(load_request), .i_load_address(load_address), .i_load_length(load_length),
        .o_load_grant(load_grant), .o_arvalid(o_arvalid), .i_arready(i_arready), .o_arid(o_arid), .o_araddr(o_araddr),
        .o_arlen(o_arlen), .i_last(i_rvalid && i_rlast), .o_active(read_active));
    assign o_axi_busy = read_active || store_active;

    // Queues and semaphores
    wire [15:0] ready;
    wire [63:0] take, post;
    wire [3:0]  overflow, wait_weights, wait_semaphore, unit_idle;
    genvar u;
    generate
        for (u = 0; u < 4; u = u + 1) begin : g_port
            unit_port u_port (
                .i_clk(i_clk), .i_rst(rst), .i_run(run), .i_push(push[u]), .i_entry(entry), .o_full(full[u]), .o_quiet(quiet[u]),
                .i_ready(ready), .o_take(take[16*u +: 16]), .o_post(post[16*u +: 16]), .o_accept(accept[u]),
                .o_entry(head[E*u +: E]), .o_pc(pcs[32*(u+1) +: 32]), .i_single(single[u]), .i_done(done[u]), .o_busy(busy[u]),
                .o_count_weights(wait_weights[u]), .o_count_semaphore(wait_semaphore[u]), .o_count_idle(unit_idle[u]));
        end
    endgenerate
    assign single[0] = 1'b0;
    semaphores u_semaphores (
        .i_clk(i_clk), .i_rst(rst), .i_post({post[63:60], post[43:40], post[23:20], post[3:0]}),
        .i_take(take[15:0] | take[31:16] | take[47:32] | take[63:48]), .o_ready(ready), .o_overflow(overflow));

    // Load and the buffers it writes
    wire [6:0]              write;
    wire [23:0]             key;
    wire [20:0]             write_beat;
    wire [8*BEAT_BYTES-1:0] write_data;
    load #(.BEAT_BYTES(BEAT_BYTES), .BURST_BEATS(BURST_BEATS), .OUTSTANDING(OUTSTANDING),
           .WBUF_BEATS(WBUF_LINES * LANES * PORTS / BEAT_BYTES),
           .ABUF_BEATS(ABUF_LINES * LANES * TOKENS * (ACTIVATION_BITS / 8) / BEAT_BYTES), .PBUF_BEATS(PBEATS),
           .TBUF_BEATS(TBUF_TOKENS * 4 / BEAT_BYTES), .SBUF_BEATS(SBEATS),
           .CBUF_BEATS(CBUF_WORDS * VECTOR_LANES * 4 / BEAT_BYTES), .FBUF_BEATS(TABLE_ENTRIES * 8 / BEAT_BYTES), .LANES(LANES),
           .PORTS(PORTS), .WBUF_LINES(WBUF_LINES)) u_load (
        .i_clk(i_clk), .i_rst(rst), .i_run(run), .i_limit(i_limit), .i_base(i_base), .i_accept(accept[0]), .i_entry(head[0 +: E]),
        .i_busy(busy[0]), .o_done(done[0]), .o_request(load_request), .o_request_address(load_address),
        .o_request_length(load_length), .i_grant(load_grant), .i_beat(load_beat), .i_last(i_rlast), .i_bad(i_rbad),
        .i_data(i_rdata), .o_write(write), .o_key(key), .o_write_beat(write_beat), .o_write_data(write_data), .o_error(load_error));
    wire [PADDR-1:0]      pbuf_group;
    wire [64*PORTS-1:0]   pbuf;
    wire [SADDR-1:0]      sbuf_line;
    wire [8*SBYTES-1:0]   sbuf;
    wire [15:0]           matrix_token, vector_token;
    wire [63:0]           tbuf;
    wire                  unused_high = &{1'b0, write_beat, sbuf, matrix_token, vector_token, tbuf, post};
    beat_ram #(.BEAT(BEAT_BYTES), .WORD(8*PORTS), .WORDS(PBUF_GROUPS)) u_pbuf (
        .i_clk(i_clk), .i_write(write[2]), .i_write_beat(write_beat[$clog2(PBEATS)-1:0]), .i_write_data(write_data),
        .i_read(1'b1), .i_read_word(pbuf_group), .o_read_data(pbuf));
    beat_ram #(.BEAT(BEAT_BYTES), .WORD(SBYTES), .WORDS(SBUF_LINES)) u_sbuf (
        .i_clk(i_clk), .i_write(write[4]), .i_write_beat(write_beat[$clog2(SBEATS)-1:0]), .i_write_data(write_data),
        .i_read(1'b1), .i_read_word(sbuf_line), .o_read_data(sbuf));
    token_buffer #(.BEAT_BYTES(BEAT_BYTES), .TOKENS(TBUF_TOKENS), .READERS(2)) u_tbuf (
        .i_clk(i_clk), .i_write(write[3]), .i_write_beat(write_beat[TADDR-1:0]), .i_write_data(write_data),
        .i_token({vector_token[TADDR-1:0], matrix_token[TADDR-1:0]}), .o_word(tbuf));

    // Matrix, vector, store
    wire [TOKENS-1:0] ubuf_write;
    wire [UADDR-1:0]  ubuf_line;
    wire [LLANE-1:0]  ubuf_lane;
    wire [VECTOR_LANES*ACTIVATION_BITS-1:0] ubuf_data;
    wire [AADDR-1:0]  acc_word;
    wire [TOKENS*PORTS*ACCUMULATOR_BITS-1:0] acc;
    wire              pop, wait_product, wait_written;
    wire [15:0]       groups, misses, fulls, macs, multiplications, zeros, rescales;
    matrix #(.ENGINE(ENGINE), .LANES(LANES), .PORTS(PORTS), .MULTIPLIERS(MULTIPLIERS), .LATENCY(LATENCY),
             .TOKENS(TOKENS), .FIFO_DEPTH(FIFO_DEPTH), .ACTIVATION_BITS(ACTIVATION_BITS), .ACCUMULATOR_BITS(ACCUMULATOR_BITS),
             .INDEX_ENTRIES(INDEX_ENTRIES), .GROUP_SCALES(GROUP_SCALES), .VECTOR_LANES(VECTOR_LANES), .BEAT_BYTES(BEAT_BYTES),
             .WBUF_LINES(WBUF_LINES), .ABUF_LINES(ABUF_LINES), .UBUF_LINES(UBUF_LINES), .ACC_WORDS(ACC_WORDS),
             .GROUP_WORDS(GROUP_WORDS), .TBUF_TOKENS(TBUF_TOKENS), .SBUF_LINES(SBUF_LINES)) u_matrix (
        .i_clk(i_clk), .i_rst(rst), .i_run(run), .i_accept(accept[1]), .i_entry(head[E +: E]), .o_single(single[1]),
        .o_done(done[1]), .o_tbuf_token(matrix_token), .i_slot(tbuf[3:0]), .i_wbuf_write(write[0]), .i_key(key), .i_abuf_write(write[1]),
        .i_write_beat(write_beat[16:0]), .i_write_data(write_data), .i_ubuf_write(ubuf_write), .i_ubuf_line(ubuf_line),
        .i_ubuf_lane(ubuf_lane), .i_ubuf_data(ubuf_data), .o_sbuf_line(sbuf_line), .i_sbuf(sbuf[16*PORTS-1:0]),
        .i_acc_word(acc_word), .o_acc(acc), .o_error(matrix_error), .o_pop(pop), .o_wait_product(wait_product),
        .o_wait_written(wait_written), .o_groups(groups), .o_misses(misses), .o_fulls(fulls), .o_macs(macs),
        .o_multiplications(multiplications), .o_zeros(zeros), .o_rescales(rescales));
    localparam OUT_BYTES = 4 * VECTOR_LANES > BEAT_BYTES ? 4 * VECTOR_LANES : BEAT_BYTES;
    wire [OUT_BYTES-1:0]    obuf_write;
    wire [OADDR-1:0]        obuf_beat, obuf_read_beat;
    wire [8*OUT_BYTES-1:0]  obuf_data;
    wire [8*BEAT_BYTES-1:0] obuf_read_data;
    wire                    obuf_read;
    wire [4:0]              elements, saturations;
    vector_unit #(.LANES(LANES), .PORTS(PORTS), .TOKENS(TOKENS), .VECTOR_LANES(VECTOR_LANES), .BEAT_BYTES(BEAT_BYTES),
             .ACTIVATION_BITS(ACTIVATION_BITS), .ACCUMULATOR_BITS(ACCUMULATOR_BITS), .ACC_WORDS(ACC_WORDS),
             .PBUF_GROUPS(PBUF_GROUPS), .TBUF_TOKENS(TBUF_TOKENS), .OBUF_BEATS(OBUF_BEATS), .UBUF_LINES(UBUF_LINES),
             .CBUF_WORDS(CBUF_WORDS), .VBUF_WORDS(VBUF_WORDS), .TABLE_ENTRIES(TABLE_ENTRIES)) u_vector (
        .i_clk(i_clk), .i_rst(rst), .i_run(run), .i_accept(accept[2]), .i_entry(head[2*E +: E]), .o_single(single[2]),
        .o_done(done[2]), .o_tbuf_token(vector_token), .i_tbuf(tbuf[63:32]), .o_acc_word(acc_word), .i_acc(acc),
        .o_pbuf_group(pbuf_group), .i_pbuf(pbuf), .i_cbuf_write(write[5]), .i_table_write(write[6]), .i_write_beat(write_beat),
        .i_write_data(write_data), .o_obuf_write(obuf_write), .o_obuf_beat(obuf_beat), .o_obuf_data(obuf_data),
        .o_ubuf_write(ubuf_write), .o_ubuf_line(ubuf_line), .o_ubuf_lane(ubuf_lane), .o_ubuf_data(ubuf_data),
        .o_error(vector_error), .o_elements(elements), .o_saturations(saturations));
    result_ram #(.BEAT(BEAT_BYTES), .OUT(OUT_BYTES), .BEATS(OBUF_BEATS)) u_obuf (
        .i_clk(i_clk), .i_write(obuf_write), .i_write_beat(obuf_beat), .i_write_data(obuf_data), .i_read(obuf_read),
        .i_read_beat(obuf_read_beat), .o_read_data(obuf_read_data));
    store #(.BEAT_BYTES(BEAT_BYTES), .BURST_BEATS(BURST_BEATS), .OBUF_BEATS(OBUF_BEATS)) u_store (
        .i_clk(i_clk), .i_rst(rst), .i_clear(i_power || i_reset), .i_run(run), .i_limit(i_limit), .i_base(i_base), .i_accept(accept[3]),
        .i_entry(head[3*E +: E]), .o_single(single[3]), .o_done(done[3]), .o_read(obuf_read), .o_read_beat(obuf_read_beat),
        .i_read_data(obuf_read_data), .o_awvalid(o_awvalid), .i_awready(i_awready), .o_awaddr(o_awaddr), .o_awlen(o_awlen),
        .o_wvalid(o_wvalid), .i_wready(i_wready), .o_wdata(o_wdata), .o_wlast(o_wlast), .o_wstrb(o_wstrb), .i_bvalid(i_bvalid), .i_bad(i_bbad),
        .o_active(store_active), .o_error(store_error));

    // Errors and counters
    wire w_beat   = o_wvalid && i_wready;
    wire progress = leave || accept != 4'd0 || done != 4'd0 || i_rvalid || w_beat || i_bvalid || pop || busy[2];
    errors u_errors (
        .i_clk(i_clk), .i_rst(rst), .i_drain(i_drain), .i_running(o_running && run), .i_progress(progress), .i_watchdog(i_watchdog),
        .i_code({store_error, vector_error, matrix_error, load_error, fetch_error}), .i_pc(pcs), .i_overflow(overflow),
        .o_stop(stop), .o_overflowed(overflowed), .o_error(o_error), .o_code(o_error_code), .o_unit(o_error_unit), .o_pc(o_error_pc));
    wire [3:0] idle = unit_idle & {4{o_running}};
    wire [3:0] on   = busy & {4{o_running}};  // after an error counters are undefined
    wire       load_here = load_beat && on[0];
    wire       store_here = w_beat && on[3];
    counter_events u_counters (
        .i_clk(i_clk), .i_clear(rst), .i_index(i_counter), .o_value(o_counter),
        .i_flags({store_here, load_here, fetch_beat && o_running,
                  idle[3], wait_weights[3] || wait_semaphore[3], on[3] && !w_beat, store_here,
                  idle[2], wait_weights[2] || wait_semaphore[2], on[2],
                  idle[1], wait_semaphore[1], wait_weights[1], on[1] && wait_product, on[1] && wait_written,
                  on[1] && !wait_product && !wait_written,
                  idle[0], wait_weights[0] || wait_semaphore[0], on[0] && !load_beat, load_here,
                  count_halt, count_queue, count_miss, count_busy, leave, o_running}),
        .i_groups(groups), .i_misses(misses), .i_fulls(fulls), .i_macs(macs), .i_multiplications(multiplications),
        .i_zeros(zeros), .i_rescales(rescales), .i_elements(elements), .i_saturations(saturations));
endmodule
`default_nettype wire
