# Vivado's commands as far as build.tcl uses them, for a Tcl interpreter without Vivado: they know cells, pins and files, refuse
# what is not there, and note what was connected. What they know of Xilinx's cells is copied from the product guides by hand.
# Environment: BUILD the script; NOTES the file for notes; MACHINE the wrapper's pins; BOARD 0 or 1; PROGRESS; SLACK.
array set pins {
    zynq_ultra_ps_e {pl_clk0 pl_resetn0 pl_ps_irq0 maxihpm0_fpd_aclk saxihp0_fpd_aclk M_AXI_HPM0_FPD S_AXI_HP0_FPD}
    proc_sys_reset {slowest_sync_clk ext_reset_in interconnect_aresetn peripheral_aresetn}
    axi_intc {s_axi_aclk s_axi_aresetn s_axi intr irq}
    smartconnect {aclk aresetn S00_AXI M00_AXI M01_AXI}
}
set pins(axlora_zynq) $env(MACHINE)
array set kind {}
array set used {}
set notes [open $env(NOTES) w]
proc note {args} { puts $::notes $args }

proc unknown {name args} { error "no such command: $name" }
proc create_project {name folder args} { note project $name $args; file mkdir $folder; set ::stub_project $folder }
proc current_project {} { return project }
proc current_fileset {} { return sources_1 }
proc get_board_parts {args} { return [expr {$::env(BOARD) ? [lindex $args end] : {}}] }
proc add_files {option files} {
    if {$option ne "-norecurse"} { error "add_files $option" }
    foreach one $files { if {![file exists $one]} { error "no file $one" }; note file $one }
}
proc get_files {name} { return $name }
proc update_compile_order {args} {}
proc set_property {args} {
    if {[lindex $args 0] eq "-dict"} {
        if {[llength $args] != 3} { error "set_property -dict takes a list and an object: $args" }
        foreach {name value} [lindex $args 1] { note property [lindex $args 2] $name $value }
        if {[llength [lindex $args 1]] % 2} { error "odd list" }
    } else {
        if {[llength $args] != 3} { error "set_property takes name, value and object: $args" }
        note property [lindex $args 2] [lindex $args 0] [lindex $args 1]
    }
}
proc create_bd_design {name} { set ::stub_design $name }
proc create_bd_cell {args} {
    array set option [lrange $args 0 end-1]
    set name [lindex $args end]
    if {[info exists ::kind($name)]} { error "cell $name is there already" }
    if {$option(-type) eq "module"} { set found $option(-reference) } else { set found [lindex [split $option(-vlnv) :] 2] }
    if {![info exists ::pins($found)]} { error "no such cell: $found" }
    set ::kind($name) $found
}
proc get_bd_cells {name} { if {![info exists ::kind($name)]} { error "no cell $name" }; return $name }
proc apply_bd_automation {args} { note automation $args }
proc pin {path} {
    lassign [split $path /] cell name
    get_bd_cells $cell
    if {$name ni $::pins($::kind($cell))} { error "$::kind($cell) has no pin $name" }
    return $path
}
proc get_bd_pins {path} { return [pin $path] }
proc get_bd_intf_pins {path} { return [pin $path] }
proc connect_bd_net {args} { connect net $args }
proc connect_bd_intf_net {args} { if {[llength $args] != 2} { error "two ends" }; connect interface $args }
proc connect {what ends} {
    foreach one [lrange $ends 1 end] {
        if {[info exists ::used($one)]} { error "$one has a driver already" }
        set ::used($one) 1
    }
    note $what {*}$ends
}
proc get_bd_addr_spaces {path} { get_bd_cells [lindex [split $path /] 0]; return $path }
proc get_bd_addr_segs {args} { set path [lindex $args end]; get_bd_cells [lindex [split $path /] 0]; return $path }
proc assign_bd_address {args} {
    array set option [lrange $args 0 end-1]
    note address $option(-target_address_space) [lindex $args end] [expr {$option(-offset)}] $option(-range)
}
proc exclude_bd_addr_seg {args} { note excluded [lindex $args end] }
proc validate_bd_design {} {}
proc save_bd_design {} { note saved $::stub_design }
proc make_wrapper {args} { set file [file join $::stub_project wrapper.v]; close [open $file w]; return $file }
proc generate_target {what design} {}
proc get_runs {name} { return $name }
proc launch_runs {run args} {
    note run $run $args
    foreach one [list axlora.runs/impl_1/${::stub_design}_wrapper.bit axlora.gen/sources_1/bd/$::stub_design/hw_handoff/$::stub_design.hwh] {
        file mkdir [file dirname [file join $::stub_project $one]]
        close [open [file join $::stub_project $one] w]
    }
}
proc wait_on_run {run} {}
proc get_timing_paths {args} { return path }
proc get_property {name object} {
    switch $name {
        PROGRESS { return $::env(PROGRESS) }
        STATUS { return "route_design ERROR" }
        SLACK { return $::env(SLACK) }
        default { error "no property $name" }
    }
}
proc open_run {run} {}
proc report_timing_summary {option file} { note report $file }
proc report_utilization {option file} { note report $file }

set code [catch {source $env(BUILD)} message]
note end $code $message
close $notes
