/* QEMU plug-in that counts the instructions of an aarch64 program by class, exactly, over all its threads.
 *
 *   qemu-aarch64 -plugin ./libcount.so,out=FILE PROGRAM ...
 *
 * Each call of getppid (os.getppid() in Python) marks a place: when the program ends, FILE holds one JSON object
 *   {"marks": [{"vector_fp": 1, ...}, ...]}
 * with the totals since the start at each mark. A block of instructions counts when it is entered: one that a fault
 * leaves half-way counts whole. Children that the program forks are not counted.
 *
 * Distributions package no header for QEMU's plug-ins, so the functions used are declared here. Build with
 *   gcc -shared -fPIC -O2 -DQEMU_API=N -o libcount.so count.c
 * where N is 1 for QEMU 4.2 to 8.2, 2 for 9.0, and 3 for 9.1 and later.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "classify.h"

#define EXPORTED __attribute__((visibility("default")))
#define MARK_SYSCALL 173 /* getppid */
#define WORD_BYTES 4

#ifndef QEMU_API
#define QEMU_API 1
#endif

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum register_access { NO_REGISTERS };

typedef void (*block_executed)(unsigned int vcpu, void *data);
typedef void (*block_translated)(plugin_id id, struct qemu_plugin_tb *block);
typedef void (*system_called)(plugin_id id, unsigned int vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                              uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8);
typedef void (*program_ended)(plugin_id id, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, block_translated call);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, block_executed call,
                                          enum register_access access, void *data);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id id, system_called call);
void qemu_plugin_register_atexit_cb(plugin_id id, program_ended call, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
#if QEMU_API >= 3
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *into, size_t length);
#else
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
#endif

EXPORTED int qemu_plugin_version = QEMU_API;

/* A translated block: how often it was entered, and what is in it. Never freed, as translated code may be entered by
 * any thread until the end. */
struct block {
  struct block *next;
  uint64_t entered;
  uint32_t holds[CLASSES];
};

struct totals {
  uint64_t of[CLASSES];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all that follows */
static struct block *blocks;
static struct totals *marks;
static size_t marked, room;

static const char *out_path;
static pid_t counted_process;

static uint32_t word_of(const struct qemu_plugin_insn *insn) {
  uint32_t word = 0;
#if QEMU_API >= 3
  qemu_plugin_insn_data(insn, &word, WORD_BYTES);
#else
  memcpy(&word, qemu_plugin_insn_data(insn), WORD_BYTES);
#endif
  return word;
}

static void *or_die(void *memory) {
  if (!memory) {
    fprintf(stderr, "count: out of memory\n");
    abort();
  }
  return memory;
}

static void on_entered(unsigned int vcpu, void *data) {
  (void)vcpu;
  __atomic_fetch_add(&((struct block *)data)->entered, 1, __ATOMIC_RELAXED);
}

static void on_translated(plugin_id id, struct qemu_plugin_tb *translated) {
  (void)id;
  struct block *block = or_die(calloc(1, sizeof *block));
  size_t count = qemu_plugin_tb_n_insns(translated);
  for (size_t index = 0; index < count; index++)
    block->holds[class_of(word_of(qemu_plugin_tb_get_insn(translated, index)))]++;
  pthread_mutex_lock(&lock);
  block->next = blocks;
  blocks = block;
  pthread_mutex_unlock(&lock);
  qemu_plugin_register_vcpu_tb_exec_cb(translated, on_entered, NO_REGISTERS, block);
}

static struct totals totals_now(void) {
  struct totals totals = {{0}};
  for (struct block *block = blocks; block; block = block->next) {
    uint64_t entered = __atomic_load_n(&block->entered, __ATOMIC_RELAXED);
    for (int kind = 0; entered && kind < CLASSES; kind++)
      totals.of[kind] += entered * block->holds[kind];
  }
  return totals;
}

static void on_system_call(plugin_id id, unsigned int vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                           uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)vcpu, (void)a1, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number != MARK_SYSCALL)
    return;
  pthread_mutex_lock(&lock);
  if (marked == room) {
    room = room ? 2 * room : 64;
    marks = or_die(realloc(marks, room * sizeof *marks));
  }
  marks[marked++] = totals_now();
  pthread_mutex_unlock(&lock);
}

static void write_totals(FILE *out, const struct totals *totals) {
  for (int kind = 0; kind < CLASSES; kind++)
    fprintf(out, "%s\"%s\": %llu", kind ? ", " : "{", class_names[kind], (unsigned long long)totals->of[kind]);
  fprintf(out, "}");
}

static void on_end(plugin_id id, void *data) {
  (void)id, (void)data;
  if (getpid() != counted_process)
    return;
  FILE *out = fopen(out_path, "w");
  if (!out) {
    perror(out_path);
    return;
  }
  fprintf(out, "{\"marks\": [");
  for (size_t mark = 0; mark < marked; mark++) {
    fprintf(out, mark ? ",\n" : "\n");
    write_totals(out, &marks[mark]);
  }
  fprintf(out, "\n]}\n");
  if (fclose(out))
    perror(out_path);
}

EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments) {
  (void)info;
  for (int index = 0; index < count; index++)
    if (!strncmp(arguments[index], "out=", 4))
      out_path = strdup(arguments[index] + 4);
  if (!out_path) {
    fprintf(stderr, "count: out=FILE is missing\n");
    return -1;
  }
  counted_process = getpid();
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated);
  qemu_plugin_register_vcpu_syscall_cb(id, on_system_call);
  qemu_plugin_register_atexit_cb(id, on_end, NULL);
  return 0;
}
