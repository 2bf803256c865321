/*
 * tests.h: the one list of engine tests, for the images (which make their
 * table of functions from it) and for the runner. A row: the test's name, and
 * how it ends: EXIT (through the exit port, with a status) or SHUTDOWN (triple
 * fault; a test that lives on fails).
 */
#ifndef ENGINE_TESTS_H
#define ENGINE_TESTS_H

enum { STATUS_PASS, STATUS_FAIL, STATUS_SKIP };

/* clang-format off */
#define TESTS_BOTH(X)                       \
    X(ad_4k, EXIT)                          \
    X(ad_2m, EXIT)                          \
    X(ad_read_then_write, EXIT)             \
    X(ad_failing_write, EXIT)               \
    X(ad_page_crossing, EXIT)               \
    X(ad_delivery, EXIT)                    \
    X(apic_self_ipi, EXIT)                  \
    X(x2apic_self_ipi, EXIT)                \
    X(apic_order, EXIT)                     \
    X(x2apic_order, EXIT)                   \
    X(apic_nesting, EXIT)                   \
    X(x2apic_nesting, EXIT)                 \
    X(apic_priority, EXIT)                  \
    X(x2apic_priority, EXIT)                \
    X(apic_timer_one_shot, EXIT)            \
    X(x2apic_timer_one_shot, EXIT)          \
    X(apic_timer_periodic, EXIT)            \
    X(x2apic_timer_periodic, EXIT)          \
    X(apic_nmi, EXIT)                       \
    X(x2apic_nmi, EXIT)                     \
    X(apic_nmi_iret_of_fault, EXIT)         \
    X(apic_registers, EXIT)                 \
    X(apic_destinations, EXIT)              \
    X(apic_illegal_vector, EXIT)            \
    X(x2apic_registers, EXIT)               \
    X(x2apic_transitions, EXIT)             \
    X(apic_timer_deadline, EXIT)            \
    X(control_cr0, EXIT)                    \
    X(control_lmsw_clts, EXIT)              \
    X(control_cr4, EXIT)                    \
    X(control_efer, EXIT)                   \
    X(control_cr3, EXIT)                    \
    X(control_cr2, EXIT)                    \
    X(control_unknown_msr, EXIT)            \
    X(control_msr_values, EXIT)             \
    X(control_tsc, EXIT)                    \
    X(control_cpuid, EXIT)                  \
    X(control_umip, EXIT)                   \
    X(debug_execute, EXIT)                  \
    X(debug_execute_in_loop, EXIT)          \
    X(debug_execute_before_fault, EXIT)     \
    X(debug_execute_after_runs, EXIT)       \
    X(debug_data_kinds, EXIT)               \
    X(debug_data_overlap, EXIT)             \
    X(debug_data_alignment, EXIT)           \
    X(debug_data_page_crossing, EXIT)       \
    X(debug_data_rep, EXIT)                 \
    X(debug_several, EXIT)                  \
    X(debug_disabled, EXIT)                 \
    X(debug_registers, EXIT)                \
    X(debug_aliases, EXIT)                  \
    X(debug_general_detect, EXIT)           \
    X(debug_io, EXIT)                       \
    X(fault_divide, EXIT)                   \
    X(fault_breakpoint, EXIT)               \
    X(fault_resume_flag, EXIT)              \
    X(fault_undefined, EXIT)                \
    X(fault_ud_before_pf, EXIT)             \
    X(fault_privileged, EXIT)               \
    X(fault_gp_before_pf, EXIT)             \
    X(fault_instruction_length, EXIT)       \
    X(fault_fpu_control_bits, EXIT)         \
    X(fault_sse_priority, EXIT)             \
    X(fault_alignment, EXIT)                \
    X(io_iopl, EXIT)                        \
    X(io_bitmap, EXIT)                      \
    X(io_bitmap_limit, EXIT)                \
    X(io_string, EXIT)                      \
    X(io_nobody, EXIT)                      \
    X(iret_bad_cs, EXIT)                    \
    X(iret_bad_ss, EXIT)                    \
    X(iret_bad_ip, EXIT)                    \
    X(iret_clears_segments, EXIT)           \
    X(iret_flags, EXIT)                     \
    X(iret_nested_task, EXIT)               \
    X(nested_benign_first, EXIT)            \
    X(nested_contributory_twice, EXIT)      \
    X(nested_page_fault_contributory, EXIT) \
    X(nested_idt_limit, EXIT)               \
    X(nested_gate_target, EXIT)             \
    X(shutdown_no_idt, SHUTDOWN)            \
    X(shutdown_double_fault_gate, SHUTDOWN) \
    X(shutdown_no_pages, SHUTDOWN)          \
    X(paging_permissions, EXIT)             \
    X(paging_upper_levels, EXIT)            \
    X(paging_large_page_rights, EXIT)       \
    X(paging_wp, EXIT)                      \
    X(paging_nx, EXIT)                      \
    X(paging_smep, EXIT)                    \
    X(paging_smap, EXIT)                    \
    X(paging_stac_clac, EXIT)               \
    X(paging_smap_implicit, EXIT)           \
    X(paging_reserved_bits, EXIT)           \
    X(paging_cross_page_data, EXIT)         \
    X(paging_cross_page_write, EXIT)        \
    X(paging_cross_page_fetch, EXIT)        \
    X(rep_movs_to_unmapped, EXIT)           \
    X(rep_movs_from_unmapped, EXIT)         \
    X(rep_movs_element_across, EXIT)        \
    X(rep_stos_to_unmapped, EXIT)           \
    X(rep_stos_element_across, EXIT)        \
    X(rep_stos_down, EXIT)                  \
    X(rep_cmps_to_unmapped, EXIT)           \
    X(rep_scas_to_unmapped, EXIT)           \
    X(rep_lods_to_unmapped, EXIT)           \
    X(rep_count_zero, EXIT)                 \
    X(rep_read_only_page, EXIT)             \
    X(sensitive_sgdt, EXIT)                 \
    X(sensitive_sidt, EXIT)                 \
    X(sensitive_sldt, EXIT)                 \
    X(sensitive_str, EXIT)                  \
    X(sensitive_smsw, EXIT)                 \
    X(sensitive_pushf, EXIT)                \
    X(sensitive_popf, EXIT)                 \
    X(sensitive_iret, EXIT)                 \
    X(sensitive_lar, EXIT)                  \
    X(sensitive_lsl, EXIT)                  \
    X(sensitive_verr, EXIT)                 \
    X(sensitive_verw, EXIT)                 \
    X(sensitive_push_segment, EXIT)         \
    X(sensitive_mov_segment, EXIT)          \
    X(sensitive_pop_segment, EXIT)          \
    X(sensitive_far_call, EXIT)             \
    X(sensitive_far_jump, EXIT)             \
    X(sensitive_far_return, EXIT)           \
    X(sensitive_int_n, EXIT)                \
    X(smc_current_instruction, EXIT)        \
    X(smc_next_instruction, EXIT)           \
    X(smc_next_after_jump, EXIT)            \
    X(smc_loop_body, EXIT)                  \
    X(smc_block_end, EXIT)                  \
    X(smc_second_page, EXIT)                \
    X(smc_second_page_self, EXIT)           \
    X(smc_second_page_remapped, EXIT)       \
    X(smc_alias, EXIT)                      \
    X(smc_remap, EXIT)                      \
    X(smc_string, EXIT)                     \
    X(smc_store_kinds, EXIT)                \
    X(smc_exception_frame, EXIT)            \
    X(smc_data_beside_code, EXIT)           \
    X(step_instructions, EXIT)              \
    X(step_loop, EXIT)                      \
    X(step_exits, EXIT)                     \
    X(step_rep, EXIT)                       \
    X(step_popf, EXIT)                      \
    X(step_iret, EXIT)                      \
    X(step_pushf, EXIT)                     \
    X(step_int_n, EXIT)                     \
    X(step_fault, EXIT)                     \
    X(step_rep_fault, EXIT)                 \
    X(step_and_interrupt, EXIT)             \
    X(tlb_invlpg, EXIT)                     \
    X(tlb_not_present_is_not_kept, EXIT)    \
    X(tlb_more_rights, EXIT)                \
    X(tlb_stale_is_old_or_new, EXIT)        \
    X(tlb_cr3_load, EXIT)                   \
    X(tlb_global, EXIT)                     \
    X(tlb_large_page, EXIT)                 \
    X(tlb_privilege, EXIT)                  \
    X(tlb_feature_changes, EXIT)            \
    X(window_sti, EXIT)                     \
    X(window_sti_cli, EXIT)                 \
    X(window_sti_hlt, EXIT)                 \
    X(window_sti_sti, EXIT)                 \
    X(window_sti_branch, EXIT)              \
    X(window_popf, EXIT)                    \
    X(window_iret, EXIT)                    \
    X(window_fault_in_shadow, EXIT)         \
    X(window_mov_ss, EXIT)                  \
    X(window_gate_types, EXIT)              \
    X(window_hlt_timer, EXIT)               \
    X(window_rep_string, EXIT)
#define TESTS_LONG(X)                       \
    X(ad_1g, EXIT)                          \
    X(apic_cr8, EXIT)                       \
    X(fault_canonical_data, EXIT)           \
    X(fault_canonical_branch, EXIT)         \
    X(fault_cmpxchg16b, EXIT)               \
    X(iret_null_ss_in_kernel, EXIT)         \
    X(iret_to_compat, EXIT)                 \
    X(iret_stack_alignment, EXIT)           \
    X(iret_ist, EXIT)                       \
    X(nested_benign_page_fault, EXIT)       \
    X(nested_contributory_page_fault, EXIT) \
    X(nested_page_fault_twice, EXIT)        \
    X(nested_stack_not_canonical, EXIT)     \
    X(nested_bad_kernel_stack, EXIT)        \
    X(syscall_enter, EXIT)                  \
    X(syscall_mask, EXIT)                   \
    X(syscall_flat_segments, EXIT)          \
    X(syscall_disabled, EXIT)               \
    X(syscall_sysret, EXIT)                 \
    X(syscall_sysret_compat, EXIT)          \
    X(syscall_sysret_not_canonical, EXIT)   \
    X(syscall_from_compat, EXIT)            \
    X(syscall_sysenter_long, EXIT)          \
    X(syscall_swapgs, EXIT)                 \
    X(syscall_fs_base, EXIT)                \
    X(syscall_fsgsbase, EXIT)               \
    X(tlb_pcid_isolation, EXIT)             \
    X(tlb_pcid_flush, EXIT)                 \
    X(tlb_pcid_rules, EXIT)                 \
    X(tlb_invpcid, EXIT)
#define TESTS_PROT(X)             \
    X(ad_4k_of_32_bit, EXIT)      \
    X(ad_4m, EXIT)                \
    X(ad_pse_off, EXIT)           \
    X(fault_into_bound_aam, EXIT) \
    X(syscall_sysenter, EXIT)     \
    X(syscall_sysexit, EXIT)      \
    X(window_pop_ss, EXIT)
/* clang-format on */

#ifdef __x86_64__
#define TEST_LIST(X) TESTS_BOTH(X) TESTS_LONG(X)
#else
#define TEST_LIST(X) TESTS_BOTH(X) TESTS_PROT(X)
#endif

#endif
