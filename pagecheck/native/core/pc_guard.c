/* The SIGBUS handler.
 *
 * SA_NODEFER keeps SIGBUS unblocked after the jump out, so that sigsetjmp need not save the
 * signal mask: that would cost a system call on the path that every batch takes. */
#include "pc_guard.h"

#include <signal.h>
#include <string.h>

static _Thread_local pc_guard *volatile current;
static struct sigaction previous;

static void on_sigbus(int number, siginfo_t *fault, void *context)
{
    pc_guard *guard = current;
    const unsigned char *address = fault->si_addr;
    if (guard != NULL && address >= guard->begin && address < guard->end) {
        current = NULL;
        siglongjmp(guard->back, 1);
    }
    if ((previous.sa_flags & SA_SIGINFO) != 0 && previous.sa_sigaction != NULL) {
        previous.sa_sigaction(number, fault, context);
        return;
    }
    if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(number);
        return;
    }
    signal(SIGBUS, SIG_DFL); /* the access is repeated and ends the process as it should */
}

bool pc_guard_install(void)
{
    static bool installed;
    struct sigaction action;
    if (installed)
        return true;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    installed = sigaction(SIGBUS, &action, &previous) == 0;
    return installed;
}

void pc_guard_enter(pc_guard *guard, const void *begin, size_t bytes)
{
    guard->begin = begin;
    guard->end = guard->begin + bytes;
    current = guard;
    __asm__ volatile("" ::: "memory");
}

void pc_guard_leave(void)
{
    __asm__ volatile("" ::: "memory");
    current = NULL;
}
