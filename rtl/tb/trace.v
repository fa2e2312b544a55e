// Writes when every instruction was accepted and when its unit was idle again: lines "unit kind cycle pc", kind 0 accept,
// 1 done; cycles as docs/isa.md counts them. One file a run, opened when i_trace is high at the start.
`default_nettype none
module trace (
    input wire          i_clk,
    input wire          i_trace,
    input wire [2047:0] i_file,
    input wire          i_run,
    input wire [3:0]    i_accept,
    input wire [3:0]    i_single,
    input wire [3:0]    i_done,
    input wire [127:0]  i_pcs
);
    integer    file;
    integer    unit_number;
    reg [63:0] cycle;
    initial begin
        file  = 0;
        cycle = 64'd0;
    end

    always @(posedge i_clk) begin
        if (i_trace && i_run && file == 0) file <= $fopen(i_file, "w");
        if (i_run) begin
            cycle <= cycle + 64'd1;
            if (file != 0)
                for (unit_number = 0; unit_number < 4; unit_number = unit_number + 1) begin
                    if (i_done[unit_number]) $fwrite(file, "%0d 1 %0d 0\n", unit_number + 1, cycle + 64'd1);
                    if (i_accept[unit_number])
                        $fwrite(file, "%0d 0 %0d %0d\n", unit_number + 1, cycle, i_pcs[32 * unit_number +: 32]);
                    if (i_accept[unit_number] && i_single[unit_number])
                        $fwrite(file, "%0d 1 %0d 0\n", unit_number + 1, cycle + 64'd1);
                end
        end else if (file != 0) begin
            $fclose(file);
            file <= 0;
        end
    end
endmodule
`default_nettype wire
