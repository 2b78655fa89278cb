// What the tests stand on: ports, registers of the processor, traps, interrupts, other processors, output.
#ifndef KERNEL_H
#define KERNEL_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

static inline void out8(u16 port, u8 value) { asm volatile("outb %0, %1" ::"a"(value), "d"(port)); }
static inline void out16(u16 port, u16 value) { asm volatile("outw %0, %1" ::"a"(value), "d"(port)); }
static inline void out32(u16 port, u32 value) { asm volatile("outl %0, %1" ::"a"(value), "d"(port)); }
static inline u8 in8(u16 port) { u8 value; asm volatile("inb %1, %0" : "=a"(value) : "d"(port)); return value; }
static inline u32 in32(u16 port) { u32 value; asm volatile("inl %1, %0" : "=a"(value) : "d"(port)); return value; }
static inline u64 tsc(void) { u32 low, high; asm volatile("rdtsc" : "=a"(low), "=d"(high)); return (u64)high << 32 | low; }
static inline void pause(void) { asm volatile("pause" ::: "memory"); }
static inline u64 read_msr(u32 index)
{
    u32 low, high;
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (u64)high << 32 | low;
}
static inline void write_msr(u32 index, u64 value)
{
    asm volatile("wrmsr" ::"c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}
struct cpuid { u32 a, b, c, d; };
static inline struct cpuid cpuid(u32 leaf, u32 index)
{
    struct cpuid r;
    asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(index));
    return r;
}

struct frame { u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax, vector, error, rip, cs, flags, rsp, ss; };

// Where the next exception goes on, and what it was; -1: there was none.
extern volatile u64 resume;
extern volatile int faulted;
extern volatile u64 fault_error;

// Runs instructions that may fail, and gives the exception's vector.
#define TRY(instructions, ...)                                                                             \
    ({                                                                                                     \
        faulted = -1;                                                                                      \
        asm volatile("leaq 771f(%%rip), %%r15; movq %%r15, resume(%%rip); " instructions "; 771: movq $0, resume(%%rip)" __VA_ARGS__); \
        faulted;                                                                                           \
    })

int try_read_msr(u32 index, u64 *value);
int try_write_msr(u32 index, u64 value);

typedef void handler(struct frame *);
void on_vector(int vector, handler *handle);

u32 apic_read(u32 reg);
void apic_write(u32 reg, u32 value);
void apic_end(void);
void send_ipi(u32 to, u32 command);
extern int is_x2apic;

extern u32 processors;
u32 here(void);
void run_on(u32 processor, void (*run)(u64), u64 with);
void start_on(u32 processor, void (*run)(u64), u64 with);
void await_all(void);

void say(const char *format, ...);
void check(int good, const char *what);
// Told, and no failure: processors that are emulated do without.
void observe(int good, const char *what);
extern int failures;
void end(u32 code);
// Waits for what becomes true; gives up after seconds of time-stamp counter, and says 0.
int soon(volatile u32 *counter, u32 wanted);

u64 configuration(u16 item, int bytes);
int same(const char *a, const char *b);

struct test { const char *name; void (*run)(void); u32 processors; };
extern const struct test tests[];

#endif
