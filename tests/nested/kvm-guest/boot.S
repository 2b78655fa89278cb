// A kernel of the kind that tests KVM: a Multiboot header, 32-bit entry, long mode with the first 4 GiB mapped one to one for
// every privilege; other processors come from real mode.

MAGIC = 0x1badb002
FLAGS = 0

    .section .init, "ax"
    .code32
    .balign 4
    .long MAGIC, FLAGS, -(MAGIC + FLAGS)

    .globl start
start:
    movl %eax, loader_magic
    movl %ebx, loader_information
    movl $stacks_end, %esp
    call build_tables
    jmp enter_long

build_tables:
    movl $table_3 + 7, table_4
    movl $4, %ecx
    movl $table_2 + 7, %eax
    movl $table_3, %edi
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b
    movl $2048, %ecx
    movl $0xe7, %eax
    movl $table_2, %edi
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b
    ret

enter_long:
    lgdt gdt_register
    movl %cr4, %eax
    orl $0x620, %eax // PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $table_4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x101, %eax // SYSCALL, long mode
    wrmsr
    movl %cr0, %eax
    orl $0x80000003, %eax
    andl $0xfffffffb, %eax
    movl %eax, %cr0
    ljmp $8, $in_long

    .code64
in_long:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movl %esp, %esp
    lidt idt_register
    call kernel
1:  hlt
    jmp 1b

// Other processors: copied to 0x8000.
    .globl trampoline, trampoline_end
    .code16
trampoline:
    cli
    movw $0x800, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0xff0, %sp
    // A little real mode: multiplication, stack, strings, a call, an interrupt.
    movw $1234, %ax
    movw $56, %cx
    mulw %cx
    pushw %ax
    popw %bx
    movw $(real_text - trampoline), %si
    movw $0xf00, %di
    movw $8, %cx
    cld
    rep movsb
    call real_call
    pushw %ds
    xorw %ax, %ax
    movw %ax, %ds
    movw $(real_interrupt - trampoline), 0x84
    movw $0x800, 0x86
    popw %ds
    int $0x21
    movw %bx, 0xf08
    lgdtl gdt_register_real - trampoline
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $24, $ap_protected
real_call:
    addw $7, %bx
    ret
real_interrupt:
    addw $9, %bx
    iret
real_text:
    .ascii "realmode"
gdt_register_real:
    .word gdt_end - gdt - 1
    .long gdt
trampoline_end:

    .code32
ap_protected:
    movw $32, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $1, %eax
    lock xaddl %eax, processors_begun
    imull $16384, %eax
    movl $stacks_end, %esp
    subl %eax, %esp
    jmp enter_long

    .code64
    .macro stub vector
    .balign 16
    .if (\vector == 8) || ((\vector >= 10) && (\vector <= 14)) || (\vector == 17)
    .else
    pushq $0
    .endif
    pushq $\vector
    jmp common
    .endm

    .balign 16
    .globl stubs
stubs:
    .set number, 0
    .rept 256
    stub number
    .set number, number + 1
    .endr

common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rbx
    pushq %rbp
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %rdi
    cld
    movq %rsp, %rbp
    andq $-16, %rsp
    call trap
    movq %rbp, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rbp
    popq %rbx
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq

// To privilege level 3 and back by SYSRET and SYSCALL; the result is what user code has in RAX.
    .globl visit_user, syscall_entry
visit_user:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, kernel_stack
    leaq user_code(%rip), %rcx
    movl $0x002, %r11d
    sysretq
user_code:
    movw %cs, %ax
    movzwl %ax, %eax
    shll $8, %eax
    orl $0x5a, %eax
    syscall
syscall_entry:
    movq kernel_stack, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

    .data
    .balign 16
    .globl gdt_task
gdt:
    .quad 0
    .quad 0x00af9b000000ffff // 8: 64-bit code
    .quad 0x00cf93000000ffff // 16: data
    .quad 0x00cf9b000000ffff // 24: 32-bit code
    .quad 0x00cf93000000ffff // 32: data
    .quad 0x00cff3000000ffff // 40: user data
    .quad 0x00affb000000ffff // 48: user 64-bit code
    .quad 0
gdt_task:
    .quad 0, 0
gdt_end:
gdt_register:
    .word gdt_end - gdt - 1
    .quad gdt
idt_register:
    .word 256 * 16 - 1
    .quad idt
    .globl loader_magic, loader_information, processors_begun
loader_magic: .long 0
loader_information: .long 0
processors_begun: .long 1

    .bss
    .balign 4096
table_4: .skip 4096
table_3: .skip 4096
table_2: .skip 16384
    .globl idt
idt: .skip 4096
stacks: .skip 65536
stacks_end:
kernel_stack: .skip 8
