// The AXI read address register: granted to fetch first, else to load, in a cycle in which it is empty or being accepted.
// Responses come in order; ID 0 is fetch's, ID 1 load's. o_active while a burst is in flight.
`default_nettype none
module read_arbiter #(
    parameter BEAT_BYTES = 8
) (
    input  wire        i_clk,
    input  wire        i_rst,
    input  wire [31:0] i_base,
    input  wire        i_fetch_request,
    input  wire [31:0] i_fetch_address,
    output wire        o_fetch_grant,
    input  wire        i_load_request,
    input  wire [31:0] i_load_address,
    input  wire [7:0]  i_load_length,
    output wire        o_load_grant,
    output reg         o_arvalid,
    input  wire        i_arready,
    output reg         o_arid,
    output reg  [31:0] o_araddr,
    output reg  [7:0]  o_arlen,
    input  wire        i_last,
    output wire        o_active
);
    localparam integer LINE_VALUE = 64 / BEAT_BYTES - 1;
    localparam [7:0] LINE = LINE_VALUE[7:0];
    reg  [4:0] bursts;
    wire       free  = !o_arvalid || i_arready;
    wire       grant = o_fetch_grant || o_load_grant;
    assign o_fetch_grant = free && i_fetch_request;
    assign o_load_grant  = free && i_load_request && !i_fetch_request;
    assign o_active      = bursts != 5'd0;
    always @(posedge i_clk) begin
        if (grant) begin
            o_arid   <= o_load_grant;
            o_araddr <= o_fetch_grant ? i_base + i_fetch_address : i_load_address;
            o_arlen  <= o_fetch_grant ? LINE : i_load_length;
        end
        if (i_rst) begin
            o_arvalid <= 1'b0;
            bursts    <= 5'd0;
        end else begin
            if (free) o_arvalid <= grant;
            bursts <= bursts + {4'd0, grant} - {4'd0, i_last};
        end
    end
endmodule
`default_nettype wire
