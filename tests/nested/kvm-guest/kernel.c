// The ground that the tests stand on, and the choice of tests by the words of the command line.
//
//   TEST...    run these; without any, all
//   rounds=N   run them N times over, for whoever kills hosts meanwhile
#include "kernel.h"
#include <stdarg.h>

extern u32 loader_magic, loader_information;
extern volatile u32 processors_begun;
extern u64 idt[512];
extern char stubs[], trampoline[], trampoline_end[];

volatile u64 resume;
volatile int faulted;
volatile u64 fault_error;
u32 processors = 1;
int failures;
int is_x2apic;
static handler *handlers[256];

static void put(char byte)
{
    while (!(in8(0x3fd) & 0x20))
        pause();
    out8(0x3f8, byte);
}

static void put_number(u64 number, u32 base)
{
    char digits[24];
    int length = 0;
    do {
        digits[length++] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number);
    while (length)
        put(digits[--length]);
}

// %s, %d (unsigned), %x: all of 64 bits.
void say(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        switch (*++format) {
        case 's':
            for (const char *text = va_arg(values, const char *); *text; text++)
                put(*text);
            break;
        case 'd': put_number(va_arg(values, u64), 10); break;
        case 'x': put_number(va_arg(values, u64), 16); break;
        }
    }
    va_end(values);
}

void check(int good, const char *what)
{
    if (!good) {
        say("  not so: %s\n", what);
        failures++;
    }
}

void observe(int good, const char *what)
{
    if (!good)
        say("  not so here: %s\n", what);
}

void end(u32 code)
{
    // QEMU's isa-debug-exit makes 2 * code + 1 of it.
    out32(0xf4, code);
    for (;;)
        asm volatile("cli; hlt");
}

int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

u64 configuration(u16 item, int bytes)
{
    u64 value = 0;
    out16(0x510, item);
    for (int i = 0; i < bytes; i++)
        value |= (u64)in8(0x511) << 8 * i;
    return value;
}

void on_vector(int vector, handler *handle) { handlers[vector] = handle; }

void trap(struct frame *frame)
{
    if (frame->vector < 32 && resume && !handlers[frame->vector]) {
        faulted = frame->vector;
        fault_error = frame->error;
        frame->rip = resume;
        return;
    }
    if (handlers[frame->vector])
        return handlers[frame->vector](frame);
    say("exception %d, error %x, at %x\n", frame->vector, frame->error, frame->rip);
    end(99);
}

int try_read_msr(u32 index, u64 *value)
{
    u32 low = 0, high = 0;
    int vector = TRY("rdmsr", : "+a"(low), "+d"(high) : "c"(index) : "r15", "memory");
    *value = (u64)high << 32 | low;
    return vector;
}

int try_write_msr(u32 index, u64 value)
{
    return TRY("wrmsr", ::"c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "r15", "memory");
}

u32 apic_read(u32 reg)
{
    return is_x2apic ? read_msr(0x800 + reg / 16) : *(volatile u32 *)(0xfee00000ul + reg);
}

void apic_write(u32 reg, u32 value)
{
    if (is_x2apic)
        write_msr(0x800 + reg / 16, value);
    else
        *(volatile u32 *)(0xfee00000ul + reg) = value;
}

void apic_end(void) { apic_write(0xb0, 0); }

void send_ipi(u32 to, u32 command)
{
    if (is_x2apic)
        return write_msr(0x830, (u64)to << 32 | command);
    while (apic_read(0x300) & 1 << 12)
        pause();
    apic_write(0x310, to << 24);
    apic_write(0x300, command);
}

u32 here(void) { return cpuid(1, 0).b >> 24; }

int soon(volatile u32 *counter, u32 wanted)
{
    for (u64 begun = tsc(); tsc() - begun < 60000000000ul;) {
        if (*counter >= wanted)
            return 1;
        pause();
    }
    return 0;
}

#define WAKING 0x30

static struct {
    void (*volatile run)(u64);
    volatile u64 with;
    volatile u32 done;
} jobs[16];

void start_on(u32 processor, void (*run)(u64), u64 with)
{
    jobs[processor].done = 0;
    jobs[processor].with = with;
    asm volatile("" ::: "memory");
    if (processor == here()) {
        run(with);
        jobs[processor].done = 1;
    } else {
        jobs[processor].run = run;
        send_ipi(processor, 0x4000 | WAKING);
    }
}

void await_all(void)
{
    for (u32 i = 1; i < processors; i++)
        while (jobs[i].run)
            pause();
}

void run_on(u32 processor, void (*run)(u64), u64 with)
{
    start_on(processor, run, with);
    await_all();
}

static void waking(struct frame *frame)
{
    (void)frame;
    apic_end();
}

// Sleeps until there is work: processors that spin take the time of those that do not.
static void serve(void)
{
    u32 self = here();
    apic_write(0xf0, 0x1ff);
    for (;;) {
        asm volatile("cli");
        if (!jobs[self].run) {
            asm volatile("sti; hlt");
            continue;
        }
        asm volatile("sti");
        jobs[self].run(jobs[self].with);
        jobs[self].run = 0;
    }
}

static void wake_others(void)
{
    processors = configuration(5, 2);
    for (char *from = trampoline, *to = (char *)0x8000; from < trampoline_end;)
        *to++ = *from++;
    if (processors == 1)
        return;
    // All but this one: INIT, then where to start.
    send_ipi(0, 0xc4500);
    send_ipi(0, 0xc4600 | 8);
    check(soon(&processors_begun, processors), "the other processors begin");
}

static void set_up_idt(void)
{
    for (u64 vector = 0; vector < 256; vector++) {
        u64 at = (u64)stubs + 16 * vector;
        idt[2 * vector] = (at & 0xffff) | 8ul << 16 | 0xeeul << 40 | (at >> 16 & 0xffff) << 48;
        idt[2 * vector + 1] = at >> 32;
    }
}

static char words[2048];

static int is_asked_for(const char *name)
{
    int any = 0;
    for (char *word = words; *word || word[1]; word++) {
        if (word != words && word[-1])
            continue;
        if (!*word)
            continue;
        int is_option = 0;
        for (char *at = word; *at; at++)
            is_option |= *at == '=';
        any |= !is_option;
        if (same(word, name))
            return 1;
    }
    return !any;
}

static u32 number_of(const char *option, u32 otherwise)
{
    for (char *word = words; *word || word[1]; word++) {
        const char *a = option;
        char *b = word;
        while (*a && *a == *b)
            a++, b++;
        if (*a || *b != '=')
            continue;
        u32 number = 0;
        while (*++b)
            number = number * 10 + (*b - '0');
        return number;
    }
    return otherwise;
}

// The loader's line without its first word, cut into words.
static void take_line(void)
{
    const char *line = (const char *)(u64) * (u32 *)((u64)loader_information + 16);
    while (*line && *line != ' ')
        line++;
    while (*line == ' ')
        line++;
    for (int i = 0; line[i] && i < 2000; i++)
        words[i] = line[i] == ' ' ? 0 : line[i];
}

void kernel(void)
{
    if (processors_begun > 1)
        return serve();
    set_up_idt();
    out8(0x3f9, 0);
    out8(0x3fb, 3);
    // The old interrupt chips are silent.
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    apic_write(0xf0, 0x1ff);
    check(loader_magic == 0x2badb002, "the loader's magic number");
    take_line();
    on_vector(WAKING, waking);
    wake_others();
    asm volatile("sti");
    u32 rounds = number_of("rounds", 1);
    for (u32 round = 1; round <= rounds; round++) {
        for (const struct test *test = tests; test->name; test++) {
            if (!is_asked_for(test->name))
                continue;
            if (processors < test->processors) {
                say("SKIP %s: needs %d processors\n", test->name, (u64)test->processors);
                continue;
            }
            int before = failures;
            test->run();
            say("%s %s\n", failures == before ? "PASS" : "FAIL", test->name);
        }
        if (rounds > 1)
            say("round %d of %d\n", (u64)round, (u64)rounds);
    }
    say("%d failures\n", (u64)failures);
    end(failures ? 1 : 0);
}
