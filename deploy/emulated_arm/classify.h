/* The class of an A64 instruction, by its 32-bit word: see "Top-level encodings for A64" and "Data processing -- scalar
 * floating-point and Advanced SIMD" in the Arm Architecture Reference Manual (DDI 0487), C4.1.
 *
 *   vector_fp     arithmetic, comparison and conversion of floating-point vectors
 *   integer_dot   int8 dot products and matrix products: sdot udot usdot sudot smmla ummla usmmla
 *   vector_int    every other vector instruction: integers, logic, moves, permutations, ciphers
 *   scalar_fp     floating-point numbers one at a time, their moves and conversions included
 *   load_store    whatever reads or writes memory, of either register file; prefetches and atomics too
 *   branch        jumps, calls, returns
 *   integer       arithmetic, logic and moves of general registers
 *   other         system instructions, hints, barriers, and what is none of the above (SVE, SME, undefined words)
 *
 * Needs nothing but stdint.h: a test compiles it alone and compares it with a disassembler.
 */
#ifndef EDGECOMPRESS_CLASSIFY_H
#define EDGECOMPRESS_CLASSIFY_H

#include <stdint.h>

enum insn_class { VECTOR_FP, INTEGER_DOT, VECTOR_INT, SCALAR_FP, LOAD_STORE, BRANCH, INTEGER, OTHER, CLASSES };

static const char *const class_names[CLASSES] = {
    "vector_fp", "integer_dot", "vector_int", "scalar_fp", "load_store", "branch", "integer", "other"};

/* Bits high..low of a word, both included. */
static inline uint32_t bits(uint32_t word, int high, int low) {
  return (word >> low) & ((1u << (high - low + 1)) - 1);
}

static inline int bit(uint32_t word, int place) { return (word >> place) & 1; }

static inline enum insn_class class_of_branch_or_system(uint32_t word) {
  switch (bits(word, 31, 29)) {
  case 0: case 4: /* b, bl */
  case 1: case 5: /* cbz, cbnz, tbz, tbnz */
    return BRANCH;
  case 2: /* b.cond, bc.cond */
    return bit(word, 25) ? OTHER : BRANCH;
  case 6: /* with bit 25: br, blr, ret; without: exceptions, hints, barriers, system registers */
    return bit(word, 25) ? BRANCH : OTHER;
  default:
    return OTHER;
  }
}

/* Advanced SIMD "three same", also of one lane and of half precision. */
static inline enum insn_class class_of_three_same(uint32_t word) {
  return bits(word, 15, 11) >= 0x18 ? VECTOR_FP : VECTOR_INT;
}

/* Advanced SIMD "three same extra": dot products, complex numbers, saturating multiply-accumulate. */
static inline enum insn_class class_of_three_same_extra(uint32_t word) {
  uint32_t opcode = bits(word, 14, 11);
  if (opcode >= 8)
    return VECTOR_FP; /* fcmla, fcadd, bfdot, bfmmla, bfmlal */
  return opcode >= 2 && opcode <= 5 ? INTEGER_DOT : VECTOR_INT;
}

/* Advanced SIMD "two-register miscellaneous", also of one lane. */
static inline enum insn_class class_of_two_misc(uint32_t word) {
  uint32_t opcode = bits(word, 16, 12);
  if (opcode == 0x1c && bit(word, 23))
    return VECTOR_INT; /* urecpe, ursqrte */
  return (opcode >= 0x0c && opcode <= 0x0f) || opcode >= 0x16 ? VECTOR_FP : VECTOR_INT;
}

/* Advanced SIMD "across lanes", and "pairwise" of one lane. */
static inline enum insn_class class_of_across_lanes(uint32_t word) {
  uint32_t opcode = bits(word, 16, 12);
  return opcode >= 0x0c && opcode <= 0x0f ? VECTOR_FP : VECTOR_INT;
}

/* Advanced SIMD "by indexed element", also of one lane. */
static inline enum insn_class class_of_indexed(uint32_t word) {
  int is_u = bit(word, 29);
  uint32_t size = bits(word, 23, 22);
  switch (bits(word, 15, 12)) {
  case 0x0: case 0x4: /* fmlal, fmlsl; with U: mla, mls */
    return is_u ? VECTOR_INT : VECTOR_FP;
  case 0x1: case 0x5: case 0x9: /* fmla, fmls, fmul; with U: fcmla, fmulx */
    return VECTOR_FP;
  case 0x3: case 0x7: /* sqdmlal, sqdmlsl; with U: fcmla */
  case 0x8: case 0xc: /* mul, sqdmulh; with U: fmlal2, fmlsl2 */
    return is_u ? VECTOR_FP : VECTOR_INT;
  case 0xe: /* sdot, udot */
    return INTEGER_DOT;
  case 0xf: /* sudot, bfdot, usdot, bfmlal; with U: sqrdmlsh */
    return is_u ? VECTOR_INT : size & 1 ? VECTOR_FP : INTEGER_DOT;
  default:
    return VECTOR_INT;
  }
}

/* Bit 24 set: shifts by an immediate, modified immediates (movi, fmov), indexed elements. */
static inline enum insn_class class_of_vector_with_operand(uint32_t word) {
  if (!bit(word, 10))
    return class_of_indexed(word);
  uint32_t opcode = bits(word, 15, 11);
  int is_shift = !bit(word, 23) && bits(word, 22, 19);
  return is_shift && (opcode == 0x1c || opcode == 0x1f) ? VECTOR_FP : VECTOR_INT; /* scvtf, fcvtzs */
}

/* Bit 24 clear, bit 21 clear: half precision, copies, permutations, and three same extra. */
static inline enum insn_class class_of_vector_of_registers(uint32_t word) {
  if (!bit(word, 10))
    return VECTOR_INT; /* tbl, tbx, zip, uzp, trn, ext */
  if (bit(word, 15))
    return class_of_three_same_extra(word);
  return bit(word, 22) && !bit(word, 14) ? VECTOR_FP : VECTOR_INT; /* three same of half precision; dup, ins, umov */
}

/* Bit 24 clear, bit 21 set. */
static inline enum insn_class class_of_vector_arithmetic(uint32_t word) {
  if (bit(word, 10))
    return class_of_three_same(word);
  if (!bit(word, 11))
    return VECTOR_INT; /* three different: smull, saddl, pmull */
  switch (bits(word, 20, 17)) {
  case 0x0:
    return class_of_two_misc(word);
  case 0x8:
    return class_of_across_lanes(word);
  case 0xc: /* two-register miscellaneous of half precision */
    return class_of_two_misc(word);
  default:
    return VECTOR_INT; /* aes */
  }
}

static inline enum insn_class class_of_vector(uint32_t word) {
  if (bit(word, 24))
    return class_of_vector_with_operand(word);
  return bit(word, 21) ? class_of_vector_arithmetic(word) : class_of_vector_of_registers(word);
}

static inline enum insn_class class_of_simd_or_fp(uint32_t word) {
  if (bit(word, 28) && !bit(word, 30))
    return SCALAR_FP;
  if (bits(word, 31, 24) == 0xce)
    return VECTOR_INT; /* eor3, bcax, xar, sha512, sm3, sm4 */
  if (bit(word, 31))
    return OTHER;
  enum insn_class found = class_of_vector(word);
  int is_one_lane = bit(word, 28);
  return is_one_lane && found == VECTOR_FP ? SCALAR_FP : found;
}

/* The class of one instruction. */
static inline enum insn_class class_of(uint32_t word) {
  uint32_t group = bits(word, 28, 25);
  if ((group & 0x5) == 0x4)
    return LOAD_STORE; /* x1x0 */
  if ((group & 0xe) == 0x8 || (group & 0x7) == 0x5)
    return INTEGER; /* 100x with an immediate, x101 of registers */
  if ((group & 0xe) == 0xa)
    return class_of_branch_or_system(word); /* 101x */
  if ((group & 0x7) == 0x7)
    return class_of_simd_or_fp(word); /* x111 */
  return OTHER;
}

#endif
