/* Makes one system call and prints its errno: probe 64|x32|i386 NUMBER [ARGUMENT...] */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char space[4096];

int main(int argc, char **argv) {
    long a[7] = {0};
    if (argc < 3)
        return 2;
    for (int i = 2; i < argc && i < 9; i++) /* "@": address of a buffer of zeroes */
        a[i - 2] = strcmp(argv[i], "@") ? strtol(argv[i], NULL, 0) : (long)space;
    if (!strcmp(argv[1], "i386")) {
#ifdef __x86_64__
        long answer;
        __asm__ volatile("int $0x80" : "=a"(answer) : "a"(a[0]), "b"(a[1]), "c"(a[2]), "d"(a[3])
                         : "memory", "r8", "r9", "r10", "r11");
        printf("%ld\n", answer < 0 ? -answer : 0);
        return 0;
#else
        return 3;
#endif
    }
    if (!strcmp(argv[1], "x32"))
        a[0] |= 0x40000000;
    errno = 0;
    long answer = syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
    printf("%d\n", answer == -1 ? errno : 0);
    return 0;
}
