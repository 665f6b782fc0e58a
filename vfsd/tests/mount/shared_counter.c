/* Counts in a shared mapping from several processes: shared_counter PATH PROCESSES ROUNDS.
 *
 * Each adds with an atomic instruction, maps the file anew every so often, and writes beside the number by write(2).
 * The number must be PROCESSES times ROUNDS in a mapping and to read(2). */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE = 12288, NUMBER_AT = 5000, BESIDE_AT = 9000 };

static void check(int holds, const char *what) {
    if (!holds) {
        perror(what);
        _exit(1);
    }
}

static char *map(const char *path, int *file) {
    *file = open(path, O_RDWR | O_CLOEXEC);
    check(*file >= 0, "open");
    char *page = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, *file, 0);
    check(page != MAP_FAILED, "mmap");
    return page;
}

static void unmap(char *page, int file) {
    check(munmap(page, SIZE) == 0, "munmap");
    check(close(file) == 0, "close");
}

static void count(const char *path, long self, long rounds) {
    int file;
    char *page = map(path, &file);
    uint64_t seen = 0;
    for (long round = 1; round <= rounds; round++) {
        uint64_t now = __atomic_add_fetch((uint64_t *)(page + NUMBER_AT), 1, __ATOMIC_SEQ_CST);
        check(now > seen, "the number went back");
        seen = now;
        off_t beside = BESIDE_AT + self * 8;
        if (round % 16 == 0) {
            check(pwrite(file, &seen, 8, beside) == 8, "pwrite");
            check(*(volatile uint64_t *)(page + beside) == seen, "a mapping does not show a write");
        }
        if (round % 50 == 0) {
            check(msync(page, SIZE, MS_SYNC) == 0, "msync");
        }
        if (round % 20 == 0) {
            unmap(page, file);
            page = map(path, &file);
        }
    }
    unmap(page, file);
}

int main(int argc, char **argv) {
    check(argc == 4, "usage: shared_counter PATH PROCESSES ROUNDS");
    long processes = atol(argv[2]), rounds = atol(argv[3]);
    int file = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0644);
    check(file >= 0 && ftruncate(file, SIZE) == 0 && close(file) == 0, "making the file");
    for (long self = 0; self < processes; self++) {
        pid_t child = fork();
        check(child >= 0, "fork");
        if (child == 0) {
            count(argv[1], self, rounds);
            _exit(0);
        }
    }
    int status, failed = 0;
    while (wait(&status) > 0) {
        failed |= status;
    }
    check(failed == 0, "a process failed");
    uint64_t read_number = 0;
    char *page = map(argv[1], &file);
    uint64_t mapped = *(uint64_t *)(page + NUMBER_AT);
    check(pread(file, &read_number, 8, NUMBER_AT) == 8, "pread");
    unmap(page, file);
    printf("%lu mapped, %lu read, of %ld\n", mapped, read_number, processes * rounds);
    return mapped != (uint64_t)(processes * rounds) || read_number != mapped;
}
