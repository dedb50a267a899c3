# The code of a scratch mapping: position-independent, without a stack. See puppet.h and scratch.h.
#
#   r12  address of the next call: {number, six arguments, result}, 64 bytes each
#   r13  calls left
#   rsp  address of the frame for rt_sigreturn(2), plus 8
#
# The result word is 1 before the call if the calls after it must not be made when it fails.

        .section .rodata
        .globl  godwit_scratch_code, godwit_scratch_done, godwit_scratch_code_end
godwit_scratch_code:
next_call:
        test    %r13, %r13
        jz      done
        mov     (%r12), %rax
        mov     8(%r12), %rdi
        mov     16(%r12), %rsi
        mov     24(%r12), %rdx
        mov     32(%r12), %r10
        mov     40(%r12), %r8
        mov     48(%r12), %r9
        syscall
        mov     56(%r12), %rbx
        mov     %rax, 56(%r12)
        add     $64, %r12
        dec     %r13
        test    %rbx, %rbx
        jz      next_call
        cmp     $-4095, %rax
        jb      next_call
done:
        mov     $186, %eax              # gettid
        syscall
        mov     %eax, %edi
        mov     $23, %esi               # SIGURG
        mov     $200, %eax              # tkill
        syscall                         # also used by itself: Puppet::find_syscall_instruction()
godwit_scratch_done:                    # a tracer takes over here
        mov     $15, %eax               # rt_sigreturn
        syscall
        ud2
godwit_scratch_code_end:

        .section .note.GNU-stack, "", @progbits
