/* Hide AVX-512, VNNI, AVX-VNNI and AMX from a process and all that it starts: see older_processor.py.
 *
 * Linux lets a process trap its own CPUID instructions (arch_prctl ARCH_SET_CPUID, "CPUID faulting"). Each trapped one is
 * executed here, and the bits of newer instructions are cleared from its answer. What reads /proc/cpuinfo instead gets the
 * file that OLDER_CPUINFO names. Bits: Intel Architecture Instruction Set Extensions, leaf 7.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

static struct sigaction before;

static void trap(int on) { syscall(SYS_arch_prctl, ARCH_SET_CPUID, !on); }

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)registers[REG_RIP];
    if (info->si_code != SI_KERNEL || code[0] != 0x0f || code[1] != 0xa2) {
        sigaction(number, &before, NULL); /* a real fault: it happens again, and ends the process as usual */
        return;
    }
    uint32_t leaf = registers[REG_RAX], part = registers[REG_RCX], a, b, c, d;
    trap(0);
    __cpuid_count(leaf, part, a, b, c, d);
    trap(1);
    if (leaf == 7 && part == 0) {
        b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)); /* AVX512 F to VL */
        c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));                                  /* VBMI, VNNI, BITALG */
        d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));               /* FP16, AMX */
    } else if (leaf == 7 && part == 1) {
        a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));  /* AVX-VNNI, BF16, AMX-FP16, AVX-IFMA */
        d &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10));   /* AVX-VNNI-INT8 and INT16, AVX-NE-CONVERT, AMX-COMPLEX */
    }
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void hide(void) {
    struct sigaction action = {0};
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, &before);
    trap(1);
}

typedef int (*Opener)(const char *, int, ...);

static int opened(const char *name, const char *path, int flags, mode_t mode) {
    const char *older = getenv("OLDER_CPUINFO");
    Opener next = (Opener)dlsym(RTLD_NEXT, name);
    return next(older && !strcmp(path, "/proc/cpuinfo") ? older : path, flags, mode);
}

#define WRAP(name)                                   \
    int name(const char *path, int flags, ...) {     \
        va_list rest;                                \
        va_start(rest, flags);                       \
        mode_t mode = va_arg(rest, mode_t);          \
        va_end(rest);                                \
        return opened(#name, path, flags, mode);     \
    }
WRAP(open)
WRAP(open64)
