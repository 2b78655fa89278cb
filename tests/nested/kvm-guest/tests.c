// Tests of the processor as KVM makes it, and of the machine around it: each says PASS or FAIL.
#include "kernel.h"

extern u32 loader_information;

static volatile u32 count;
static volatile u32 counts[16];

static void counting(struct frame *frame)
{
    (void)frame;
    __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    apic_end();
}

// What the loader says, and what the machine says of itself.
static void test_loader(void)
{
    u32 *information = (u32 *)(u64)loader_information;
    u32 flags = information[0];
    check((flags & 0x45) == 0x45, "memory, command line and map are told");
    u64 ram = 0;
    char *map = (char *)(u64)information[12];
    for (char *at = map; at < map + information[11]; at += *(u32 *)at + 4)
        if (*(u32 *)(at + 20) == 1)
            ram += *(u64 *)(at + 12);
    u64 told = configuration(3, 8);
    check(ram <= told && told - ram < 0x200000, "the memory map adds up to the configuration's memory");
    check(information[2] >= 8192, "memory above 1 MiB");
    check(configuration(0, 4) == 0x554d4551, "the configuration's signature");
    if (information[5] == 1) {
        u32 *module = (u32 *)(u64)information[6];
        check(module[0] < module[1] && same((char *)(u64)module[0], "module"), "the module's content");
    }
}

static u8 sum(char *from, u32 length)
{
    u8 sum = 0;
    while (length--)
        sum += *from++;
    return sum;
}

static void test_acpi(void)
{
    char *root = 0;
    for (char *at = (char *)0xe0000; at < (char *)0x100000 && !root; at += 16)
        if (*(u64 *)at == 0x2052545020445352)
            root = at;
    check(root != 0, "the root pointer");
    if (!root)
        return;
    check(sum(root, 20) == 0, "its checksum");
    int wide = root[15] >= 2;
    char *table = (char *)(wide ? *(u64 *)(root + 24) : *(u32 *)(root + 16));
    check(sum(table, *(u32 *)(table + 4)) == 0, "the table of tables");
    u32 found = 0, step = wide ? 8 : 4;
    for (char *at = table + 36; at < table + *(u32 *)(table + 4); at += step) {
        char *one = (char *)(wide ? *(u64 *)at : *(u32 *)at);
        check(sum(one, *(u32 *)(one + 4)) == 0, "a table's checksum");
        if (*(u32 *)one != 0x43495041)
            continue;
        for (char *entry = one + 44; entry < one + *(u32 *)(one + 4); entry += (u8)entry[1])
            found += entry[0] == 0 && entry[4] & 1;
    }
    check(found == processors, "as many processors as the configuration says");
}

static void test_apic(void)
{
    check((apic_read(0x30) & 0xf0) == 0x10, "the local APIC's version");
    on_vector(0x40, counting);
    count = 0;
    send_ipi(here(), 0x4040);
    check(soon(&count, 1), "an interrupt to itself");
    apic_write(0x80, 0x50);
    send_ipi(here(), 0x4040);
    for (int i = 0; i < 1000; i++)
        pause();
    check(count == 1, "held back by the task priority");
    apic_write(0x80, 0);
    check(soon(&count, 2), "and then not");
    apic_write(0x3e0, 0xb);
    apic_write(0x320, 0x40);
    apic_write(0x380, 100000);
    check(soon(&count, 3), "the timer, once");
    apic_write(0x320, 0x20040);
    apic_write(0x380, 1000000);
    check(soon(&count, 8), "the timer, again and again");
    apic_write(0x320, 0x10040);
    apic_write(0x380, 0);
    if (cpuid(1, 0).c & 1 << 24) {
        u32 before = count;
        apic_write(0x320, 0x40040);
        asm volatile("mfence");
        write_msr(0x6e0, tsc() + 20000000);
        check(soon(&count, before + 1), "the timer's deadline");
        check(read_msr(0x6e0) == 0, "which is then no more");
        apic_write(0x320, 0x10040);
    }
}

static void test_x2apic(void)
{
    if (!(cpuid(1, 0).c & 1 << 21))
        return say("  no x2APIC\n");
    u64 base = read_msr(0x1b);
    check(base >> 8 & 1, "the first processor is it");
    u32 id = apic_read(0x20) >> 24;
    write_msr(0x1b, base | 1 << 10);
    is_x2apic = 1;
    check(apic_read(0x20) == id, "the same number");
    on_vector(0x41, counting);
    count = 0;
    send_ipi(id, 0x4041);
    check(soon(&count, 1), "an interrupt to itself");
    check(try_write_msr(0x1b, base) == 13, "no way straight back");
    write_msr(0x1b, base & ~(1ul << 11));
    write_msr(0x1b, base);
    is_x2apic = 0;
    apic_write(0xf0, 0x1ff);
    check(apic_read(0x20) >> 24 == id, "back through being off");
}

static u32 ioapic_read(u32 reg)
{
    *(volatile u32 *)0xfec00000ul = reg;
    return *(volatile u32 *)0xfec00010ul;
}

static void ioapic_write(u32 reg, u32 value)
{
    *(volatile u32 *)0xfec00000ul = reg;
    *(volatile u32 *)0xfec00010ul = value;
}

static void route(u32 line, u32 low)
{
    ioapic_write(0x11 + 2 * line, here() << 24);
    ioapic_write(0x10 + 2 * line, low);
}

static void lowering(struct frame *frame)
{
    (void)frame;
    count++;
    if (count == 3)
        out8(0x200e, 0);
    apic_end();
}

static void test_ioapic(void)
{
    check((ioapic_read(1) >> 16 & 0xff) == 23, "24 lines");
    on_vector(0x42, counting);
    on_vector(0x43, lowering);
    count = 0;
    route(14, 0x42);
    out8(0x200e, 1);
    check(soon(&count, 1), "an edge");
    out8(0x200e, 0);
    out8(0x200e, 1);
    check(soon(&count, 2), "another edge");
    out8(0x200e, 0);
    route(14, 0x10042);
    out8(0x200e, 1);
    out8(0x200e, 0);
    for (int i = 0; i < 1000; i++)
        pause();
    check(count == 2, "none while masked");
    count = 0;
    route(14, 0x8043);
    out8(0x200e, 1);
    check(soon(&count, 3), "a level, until it is down");
    for (int i = 0; i < 1000; i++)
        pause();
    check(count == 3, "and no more then");
    check(!(ioapic_read(0x10 + 28) & 1 << 14), "nothing is left to be acknowledged");
    route(14, 0x10000);
}

static void test_pit(void)
{
    on_vector(0x44, counting);
    count = 0;
    // Its line is the I/O APIC's second on one machine, the first on another.
    route(2, 0x44);
    route(0, 0x44);
    out8(0x43, 0x34);
    out8(0x40, 0xff);
    out8(0x40, 0x0f);
    check(soon(&count, 3), "ticks");
    route(2, 0x10000);
    route(0, 0x10000);
    out8(0x43, 0x30);
}

static const struct { u32 index; u64 value; const char *name; } kept[] = {
    // AMD's have 32 bits.
    {0x174, 0x1234, "SYSENTER_CS"},   {0x175, 0x81000, "SYSENTER_ESP"},
    {0x176, 0x82000, "SYSENTER_EIP"}, {0x277, 0x0007010600070106, "PAT"},
    {0x200, 0x40000006, "MTRR base"}, {0x201, 0xf0000800, "MTRR mask"},
    {0x20f, 0xc0000800, "last MTRR mask"}, {0x250, 0x0606060606060606, "fixed MTRR"},
    {0x26f, 0x0505050505050505, "last fixed MTRR"}, {0x2ff, 0xc06, "MTRR default"},
    {0x400, ~0ul, "MC0_CTL"},         {0xc0000081, 0x0023001000000000, "STAR"},
    {0xc0000082, 0xffff800000003000, "LSTAR"}, {0xc0000083, 0xffff800000004000, "CSTAR"},
    {0xc0000084, 0x3f7fd5, "SFMASK"}, {0xc0000100, 0xffff800000005000, "FS_BASE"},
    {0xc0000102, 0xffff800000006000, "KERNEL_GS_BASE"},
};
#define KEPT (sizeof kept / sizeof *kept)

static int is_set[KEPT];

// Writes them in the first round, and finds them in each that comes after.
static void test_keep(void)
{
    static int begun;
    if (!begun++) {
        for (u32 i = 0; i < KEPT; i++)
            is_set[i] = try_write_msr(kept[i].index, kept[i].value) == -1;
        asm volatile("mov %0, %%dr0; mov %1, %%dr3" ::"r"(0x1111ul), "r"(0x4444ul));
        apic_write(0x350, 0x10051);
        route(20, 0x10052);
        out32(0xe0, 0x12345678);
        *(volatile u32 *)0xff000040ul = 0x9abcdef0;
        out8(0x21, 0xfb);
    }
    for (u32 i = 0; i < KEPT; i++) {
        u64 value = 0;
        if (is_set[i] && (try_read_msr(kept[i].index, &value) != -1 || value != kept[i].value)) {
            check(0, kept[i].name);
            say("  %x: %x is %x\n", (u64)kept[i].index, kept[i].value, value);
        }
    }
    u64 first, last;
    asm volatile("mov %%dr0, %0; mov %%dr3, %1" : "=r"(first), "=r"(last));
    check(first == 0x1111 && last == 0x4444, "debug registers");
    check(apic_read(0x350) == 0x10051, "the local APIC's first line");
    check((ioapic_read(0x10 + 40) & 0x100ff) == 0x10052, "the I/O APIC's 20th line");
    check(in32(0xe0) == 0x12345678, "a device's word");
    check(*(volatile u32 *)0xff000040ul == 0x9abcdef0, "a device's memory");
    check(in8(0x21) == 0xfb, "the old chip's mask");
}

static void test_msr(void)
{
    for (u32 i = 0; i < KEPT; i++) {
        u64 old = 0, value = 0;
        if (try_read_msr(kept[i].index, &old) != -1)
            continue;
        if (try_write_msr(kept[i].index, kept[i].value) != -1)
            continue;
        try_read_msr(kept[i].index, &value);
        if (value != kept[i].value)
            check(0, kept[i].name);
        try_write_msr(kept[i].index, old);
    }
    u64 value;
    check(try_read_msr(0x4d3c2b1a, &value) == 13, "none that there is not");
    observe(try_write_msr(0xc0000082, 1ul << 63) == 13, "no address that is none");
    check(try_write_msr(0xc0000080, 1ul << 63) == 13, "no unknown bit of EFER");
    check(read_msr(0xc0000080) >> 10 & 1, "long mode is active");
}

static u64 last_tick;
static void see_tick(u64 with)
{
    (void)with;
    u64 now = tsc();
    check(now > last_tick, "the time-stamp counter goes forward over processors");
    last_tick = now;
}

static void test_tsc(void)
{
    u64 before = tsc();
    for (int i = 0; i < 10000; i++) {
        u64 now = tsc();
        if (now < before)
            return check(0, "it goes forward");
        before = now;
    }
    if (cpuid(0x80000001, 0).d & 1 << 27) {
        u32 low, high, aux;
        write_msr(0xc0000103, 0x123);
        asm volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(aux));
        check(aux == 0x123, "RDTSCP's number");
    }
    // In every round, so before and after a move too.
    for (u32 i = 0; i < 4 * processors; i++)
        run_on(i % processors, see_tick, 0);
}

static void test_tsc_write(void)
{
    u64 old = tsc();
    write_msr(0x10, old + (1ul << 40));
    u64 now = tsc();
    check(now >= old + (1ul << 40) && now < old + (1ul << 41), "the counter is set forward");
    if (cpuid(7, 0).b & 2) {
        u64 adjust = read_msr(0x3b);
        check(adjust != 0, "which the adjustment shows");
        write_msr(0x3b, adjust + (1ul << 42));
        check(tsc() >= now + (1ul << 42), "the adjustment sets it forward");
        write_msr(0x3b, 0);
        check(tsc() < old + (1ul << 40), "and back");
    } else
        write_msr(0x10, old + (now - old - (1ul << 40)));
    last_tick = 0;
}

struct clock { volatile u32 version; u32 pad; u64 tsc, ns; u32 multiplier; signed char shift; u8 flags, pad2[2]; };
static struct clock clocks[16] __attribute__((aligned(64)));
static u64 last_ns, clock_steps, clock_back;

static u64 clock_ns(struct clock *clock)
{
    for (;;) {
        u32 version = clock->version;
        asm volatile("" ::: "memory");
        u64 ticks = tsc() - clock->tsc;
        ticks = clock->shift < 0 ? ticks >> -clock->shift : ticks << clock->shift;
        u64 ns = clock->ns + (u64)((unsigned __int128)ticks * clock->multiplier >> 32);
        asm volatile("" ::: "memory");
        if (!(version & 1) && version == clock->version)
            return ns;
    }
}

static void see_clock(u64 with)
{
    (void)with;
    struct clock *clock = &clocks[here()];
    static u8 begun[16];
    if (!begun[here()]) {
        begun[here()] = 1;
        write_msr(0x4b564d01, (u64)clock | 1);
    }
    u64 now = clock_ns(clock);
    if (clock_steps++ && now < last_ns) {
        clock_back++;
        say("  processor %d: %d after %d\n", (u64)here(), now, last_ns);
    }
    last_ns = now;
}

static void test_kvmclock(void)
{
    if (!(cpuid(0x40000001, 0).a & 1 << 3))
        return say("  no clock of KVM's\n");
    for (u32 i = 0; i < 20 * processors; i++)
        run_on(i % processors, see_clock, 0);
    check(clock_back == 0, "KVM's clock never goes back, over processors and moves");
    static u32 wall[3] __attribute__((aligned(16)));
    write_msr(0x4b564d00, (u64)wall);
    check(wall[1] > 1600000000, "a time of day");
}

static u64 last_pair[2];
static volatile u32 turn;
static void ping(u64 self)
{
    // A turn may take a time slice, where both share a processor.
    for (u32 i = 0; i < 50; i++) {
        while (turn % 2 != self)
            pause();
        u64 now = tsc();
        if (now < last_pair[1 - self])
            count++;
        last_pair[self] = now;
        turn++;
    }
}

// Two processors take turns: neither sees a counter behind the other's.
static void test_tsc_sync(void)
{
    count = 0;
    turn = 0;
    last_pair[0] = last_pair[1] = 0;
    start_on(1, ping, 1);
    ping(0);
    await_all();
    check(count == 0, "the counters of two processors are one");
    if (count)
        say("  %d times not\n", (u64)count);
}

static void test_hypercall(void)
{
    long result = 1000;
    int amd = cpuid(0, 0).c == 0x444d4163;
    if (amd)
        asm volatile("vmmcall" : "=a"(result) : "a"(0x7fffff) : "memory");
    else
        asm volatile("vmcall" : "=a"(result) : "a"(0x7fffff) : "memory");
    check(result == -1000, "an unknown call is refused");
}

static u64 breakpoints;
static void breaking(struct frame *frame)
{
    (void)frame;
    breakpoints++;
}

static void test_idt(void)
{
    check(TRY("xorl %%ecx, %%ecx; xorl %%edx, %%edx; divl %%ecx", ::: "rax", "rcx", "rdx", "r15", "memory") == 0, "division by zero");
    check(TRY("ud2", ::: "r15", "memory") == 6, "an undefined instruction");
    check(TRY("movabs $0x8000000000000000, %%rax; movb (%%rax), %%al", ::: "rax", "r15", "memory") == 13, "an address that is none");
    check(TRY("movl $0x1233, %%eax; movw %%ax, %%ds", ::: "rax", "r15", "memory") == 13 && fault_error == 0x1230, "a selector that is none");
    check(TRY("movabs $0x8000000000, %%rax; movb (%%rax), %%al", ::: "rax", "r15", "memory") == 14 && fault_error == 0, "a page that is not there");
    u64 where;
    asm volatile("mov %%cr2, %0" : "=r"(where));
    check(where == 0x8000000000, "whose address is told");
    on_vector(3, breaking);
    breakpoints = 0;
    asm volatile("int3");
    check(breakpoints == 1, "a breakpoint");
    on_vector(0x45, breaking);
    asm volatile("int $0x45");
    check(breakpoints == 2, "an interrupt by an instruction");
}

static u64 debug_status, debug_traps;
static void debugging(struct frame *frame)
{
    asm volatile("mov %%dr6, %0" : "=r"(debug_status));
    asm volatile("mov %0, %%dr6" ::"r"(0xffff0ff0ul));
    debug_traps++;
    frame->flags |= 1 << 16;
    if (debug_status & 1 << 14 && debug_traps == 3)
        frame->flags &= ~(1ul << 8);
}

static void test_debug(void)
{
    static volatile u64 watched;
    u64 old0, old7;
    asm volatile("mov %%dr0, %0; mov %%dr7, %1" : "=r"(old0), "=r"(old7));
    on_vector(1, debugging);
    debug_traps = 0;
    asm volatile("mov %0, %%dr0; mov %1, %%dr7" ::"r"(&watched), "r"(0xd0402ul));
    watched = 1;
    // Emulated processors tell of watched addresses late or never.
    observe(debug_traps == 1 && debug_status & 1, "a write is watched");
    asm volatile("leaq 1f(%%rip), %%rax; mov %%rax, %%dr0; mov %0, %%dr7; nop; 1: nop" ::"r"(0x402ul) : "rax");
    observe(debug_traps == 2 && debug_status & 1, "an instruction is watched");
    asm volatile("mov %0, %%dr7" ::"r"(0x400ul));
    debug_traps = 0;
    asm volatile("pushf; orl $0x100, (%%rsp); popf; nop; nop; nop; nop" ::: "memory");
    check(debug_traps == 3 && debug_status & 1 << 14, "single steps");
    asm volatile("mov %0, %%dr0; mov %1, %%dr7" ::"r"(old0), "r"(old7));
    on_vector(1, 0);
}

extern u64 visit_user(void);
extern char syscall_entry[];

static void test_syscall(void)
{
    u64 old[3] = {read_msr(0xc0000081), read_msr(0xc0000082), read_msr(0xc0000084)};
    // SYSRET's code is the base plus 16, its stack the base plus 8.
    write_msr(0xc0000081, (u64)(32 | 3) << 48 | 8ul << 32);
    write_msr(0xc0000082, (u64)syscall_entry);
    write_msr(0xc0000084, 0x200);
    asm volatile("cli");
    u64 result = visit_user();
    asm volatile("sti");
    check((result & 0xff) == 0x5a, "user code runs");
    check((result >> 8 & 3) == 3, "without privileges");
    write_msr(0xc0000081, old[0]);
    write_msr(0xc0000082, old[1]);
    write_msr(0xc0000084, old[2]);
}

static void test_pcid(void)
{
    u64 cr4, cr3;
    asm volatile("mov %%cr4, %0; mov %%cr3, %1" : "=r"(cr4), "=r"(cr3));
    int has = cpuid(1, 0).c >> 17 & 1;
    int vector = TRY("mov %0, %%cr4", ::"r"(cr4 | 1 << 17) : "r15", "memory");
    check((vector == -1) == has, "CR4 takes what CPUID says");
    if (has) {
        asm volatile("mov %0, %%cr3" ::"r"(cr3 | 5) : "memory");
        asm volatile("mov %0, %%cr3" ::"r"(cr3 | 5 | 1ul << 63) : "memory");
        u64 now;
        asm volatile("mov %%cr3, %0" : "=r"(now));
        check(now == (cr3 | 5), "the space's number is kept");
        asm volatile("mov %0, %%cr3" ::"r"(cr3) : "memory");
    }
    asm volatile("mov %0, %%cr4" ::"r"(cr4) : "memory");
    u64 descriptor[2] = {0, 0};
    vector = TRY("invpcid %0, %1", ::"m"(descriptor), "r"(2ul) : "r15", "memory");
    int invpcid = cpuid(7, 0).b >> 10 & 1;
    check((vector == -1) == invpcid, "INVPCID is there if CPUID says so");
}

static void test_xsave(void)
{
    static u8 area[4096] __attribute__((aligned(64)));
    u64 cr4;
    asm volatile("mov %%cr4, %0" : "=r"(cr4));
    int has = cpuid(1, 0).c >> 26 & 1;
    int vector = TRY("mov %0, %%cr4", ::"r"(cr4 | 1 << 18) : "r15", "memory");
    check((vector == -1) == has, "CR4 takes what CPUID says");
    if (!has)
        return say("  no XSAVE\n");
    u64 all = (u64)cpuid(0xd, 0).d << 32 | cpuid(0xd, 0).a;
    asm volatile("xsetbv" ::"a"((u32)all & 7), "d"(0), "c"(0));
    u32 low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    check(low == ((u32)all & 7), "XCR0 is what was set");
    check(cpuid(1, 0).c >> 27 & 1, "CPUID shows that it is on");
    asm volatile("xsave %0" : "+m"(area) : "a"(7), "d"(0) : "memory");
    asm volatile("xrstor %0" : "+m"(area) : "a"(7), "d"(0) : "memory");
    check(TRY("xsetbv", ::"a"(0), "d"(0), "c"(0) : "r15", "memory") == 13, "XCR0 cannot be without x87");
    asm volatile("mov %0, %%cr4" ::"r"(cr4));
}

static void test_rdpru(void)
{
    int vector = TRY("xorl %%ecx, %%ecx; .byte 0x0f, 0x01, 0xfd", ::: "rax", "rcx", "rdx", "r15", "memory");
    int has = cpuid(0x80000008, 0).b >> 4 & 1;
    check(vector == (has ? -1 : 6) || vector == 6, "RDPRU is undefined where CPUID does not show it");
}

static void test_sieve(void)
{
    static u8 composite[1 << 20];
    u32 primes = 0;
    for (u32 i = 0; i < sizeof composite; i++)
        composite[i] = 0;
    for (u32 i = 2; i < sizeof composite; i++) {
        if (composite[i])
            continue;
        primes++;
        for (u64 j = (u64)i * i; j < sizeof composite; j += i)
            composite[j] = 1;
    }
    check(primes == 82025, "82,025 primes below 2^20");
}

static void add_many(u64 times)
{
    while (times--)
        __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
}

static void note_here(u64 with)
{
    counts[here()] = with;
}

static void test_smp(void)
{
    count = 0;
    for (u32 i = 1; i < processors; i++)
        start_on(i, add_many, 100000);
    add_many(100000);
    await_all();
    check(count == 100000 * processors, "all add up");
    for (u32 i = 0; i < processors; i++) {
        counts[i] = 0;
        run_on(i, note_here, 7 + i);
        check(counts[i] == 7 + i, "each runs what it is told");
    }
    on_vector(0x46, counting);
    count = 0;
    for (u32 i = 1; i < processors; i++)
        send_ipi(i, 0x4046);
    check(soon(&count, processors - 1), "interrupts to the others");
    send_ipi(0, 0xc4046);
    check(soon(&count, 2 * (processors - 1)), "an interrupt to all others");
    send_ipi(0, 0x84046);
    check(soon(&count, 2 * (processors - 1) + processors), "an interrupt to all");
}

static volatile u32 nmis;
static void nmi(struct frame *frame)
{
    (void)frame;
    __atomic_add_fetch(&nmis, 1, __ATOMIC_SEQ_CST);
}

static void test_nmi(void)
{
    on_vector(2, nmi);
    nmis = 0;
    send_ipi(1, 0x4400);
    check(soon(&nmis, 1), "an NMI to another processor");
}

static void sleeping(u64 with)
{
    (void)with;
    asm volatile("hlt");
}

static void test_halt(void)
{
    on_vector(0x47, counting);
    for (u32 i = 0; i < 5; i++) {
        count = 0;
        start_on(1, sleeping, 0);
        send_ipi(1, 0x4047);
        while (!count)
            pause();
        // The interrupt may have come before it slept.
        send_ipi(1, 0x4047);
        await_all();
    }
    check(1, "a processor that sleeps is woken");
}

// What the other processors did in real mode on their way here.
static void test_realmode(void)
{
    check(*(u64 *)0x8f00 == 0x65646f6d6c616572, "a string is moved");
    check(*(u16 *)0x8f08 == (u16)(1234 * 56 + 7 + 9), "a product, a call and an interrupt");
}

static void test_emulator(void)
{
    static u8 buffer[64];
    volatile u8 *memory = (u8 *)0xff000000ul;
    out32(0xe0, 0);
    out8(0xe1, 0xab);
    check(in32(0xe0) == 0xab00, "one byte of a port's word");
    out32(0xe0, 0xa5a5a5a5);
    for (int i = 0; i < 64; i++)
        buffer[i] = 0;
    void *to = buffer;
    u64 times = 16;
    asm volatile("cld; rep insb" : "+D"(to), "+c"(times) : "d"(0xe0) : "memory");
    check(buffer[0] == 0xa5 && buffer[15] == 0xa5 && buffer[16] == 0, "a string of bytes in");
    for (int i = 0; i < 64; i++)
        buffer[i] = i;
    void *from = buffer;
    to = (void *)memory;
    times = 8;
    asm volatile("cld; rep movsq" : "+S"(from), "+D"(to), "+c"(times)::"memory");
    check(memory[0] == 0 && memory[63] == 63, "a string to a device's memory");
    check(*(volatile u64 *)(memory + 8) == 0x0f0e0d0c0b0a0908, "eight bytes of it");
    u32 old = 0x03020100;
    asm volatile("lock cmpxchgl %2, %1" : "+a"(old), "+m"(*(volatile u32 *)memory) : "r"(0x55u) : "memory");
    check(*(volatile u32 *)memory == 0x55, "compared and exchanged");
    *(volatile u32 *)memory += 5;
    asm volatile("addl $6, %0; notl %0; shll $4, %0" : "+m"(*(volatile u32 *)memory));
    check(*(volatile u32 *)memory == ~(0x55u + 11) << 4, "arithmetic");
    *(volatile u16 *)(memory + 0xfffe) = 0x77aa;
    check(*(volatile u16 *)(memory + 0xfffe) == 0x77aa, "its last bytes");
    to = (void *)memory;
    times = 8;
    asm volatile("cld; rep stosq" : "+D"(to), "+c"(times) : "a"(0ul) : "memory");
    check(*(volatile u64 *)(memory + 40) == 0, "it is cleared");
    out32(0xe0, 0x12345678);
    *(volatile u32 *)0xff000040ul = 0x9abcdef0;
}

static void test_vmexit(void)
{
    u64 begun = tsc();
    for (int i = 0; i < 100; i++)
        cpuid(0, 0);
    check(tsc() > begun, "CPUID takes time");
    begun = tsc();
    for (int i = 0; i < 100; i++)
        in8(0xe0);
    check(tsc() > begun, "a port takes time");
    begun = tsc();
    for (int i = 0; i < 100; i++)
        apic_read(0x30);
    check(tsc() > begun, "the local APIC takes time");
    u64 cr8;
    asm volatile("mov %%cr8, %0; mov %0, %%cr8" : "=r"(cr8));
    check(cr8 == 0, "CR8 is the task priority");
}

const struct test tests[] = {
    {"loader", test_loader, 1},     {"acpi", test_acpi, 1},         {"apic", test_apic, 1},
    {"x2apic", test_x2apic, 1},     {"ioapic", test_ioapic, 1},     {"pit", test_pit, 1},
    {"msr", test_msr, 1},           {"tsc", test_tsc, 1},           {"tsc_sync", test_tsc_sync, 2},
    {"kvmclock", test_kvmclock, 1}, {"hypercall", test_hypercall, 1}, {"idt", test_idt, 1},
    {"debug", test_debug, 1},       {"syscall", test_syscall, 1},   {"pcid", test_pcid, 1},
    {"xsave", test_xsave, 1},       {"rdpru", test_rdpru, 1},       {"sieve", test_sieve, 1},
    {"smp", test_smp, 2},           {"nmi", test_nmi, 2},           {"halt", test_halt, 2},
    {"realmode", test_realmode, 2}, {"emulator", test_emulator, 1}, {"vmexit", test_vmexit, 1},
    {"keep", test_keep, 1},         {"tsc_write", test_tsc_write, 1}, {0, 0, 0},
};
