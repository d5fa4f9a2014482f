/* Feeds deploy/native's reader from standard input, in frames: a number of bytes, a line end, the bytes.
 *
 * manifests: each frame is one; prints "ok" or why it is refused.   paths: prints 1 or 0.   sha256: prints digests.
 * prepare: frames of a manifest, "height width channels wanted_height wanted_width" and pixels, again and again.
 * fuzz COUNT SEED: a frame is changed at random and read, so often; prints how many were taken. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edge_internal.h"

/* The next frame in memory of just its size, with a zero behind; NULL: there is none. */
static char *frame(size_t *bytes) {
  if (scanf("%zu", bytes) != 1 || getchar() != '\n') return NULL;
  char *content = malloc(*bytes + 1);
  if (!content || fread(content, 1, *bytes, stdin) != *bytes) exit(3);
  content[*bytes] = 0;
  return content;
}

static void manifests(void) {
  size_t bytes;
  for (char *text; (text = frame(&bytes)); free(text)) {
    edge_manifest manifest;
    char message[EDGE_MESSAGE] = "";
    puts(edge_read_manifest(&manifest, text, bytes, message) ? "ok" : message);
    edge_free_manifest(&manifest);
  }
}

static void paths(void) {
  size_t bytes;
  for (char *text; (text = frame(&bytes)); free(text)) printf("%d\n", edge_is_path(text, bytes));
}

static void digests(void) {
  size_t bytes;
  char hex[65];
  for (char *text; (text = frame(&bytes)); free(text)) {
    edge_sha256(text, bytes, hex);
    puts(hex);
  }
}

static void prepare(void) {
  size_t bytes, sides[5];
  for (char *text, *numbers, *pixels; (text = frame(&bytes)); free(text), free(numbers), free(pixels)) {
    edge_manifest manifest;
    char message[EDGE_MESSAGE] = "";
    if (!edge_read_manifest(&manifest, text, bytes, message)) exit((fputs(message, stderr), 4));
    numbers = frame(&bytes);
    if (sscanf(numbers, "%zu %zu %zu %zu %zu", &sides[0], &sides[1], &sides[2], &sides[3], &sides[4]) != 5) exit(5);
    pixels = frame(&bytes);
    const edge_steps *steps = &manifest.inputs[0].steps;
    float *found = edge_prepare(steps, sides + 3, (const uint8_t *)pixels, sides[0], sides[1], sides[2], message);
    if (!found) exit((fputs(message, stderr), 6));
    fwrite(found, sizeof *found, sides[3] * sides[4] * steps->channels, stdout);
    free(found);
    edge_free_manifest(&manifest);
  }
}

static unsigned long seed;

static size_t below(size_t most) { /* Knuth's 64-bit congruential generator */
  seed = seed * 6364136223846793005ul + 1442695040888963407ul;
  return (size_t)(seed >> 33) % most;
}

/* One change: bytes overwritten, cut out, or put in, of which some are words of JSON. */
static size_t change(char *text, size_t bytes) {
  static const char *const words[] = {"\"", "{",        "}",       "[",        "]",    ",",     ":",
                                      "\\", "\\u0000",  "\\ud800", "null",     "-1",   "1e999", "99999999999999999999",
                                      "0",  "[[[[[[[[", "{\"a\":", "\xc3\xa9", "\xff", "true"};
  size_t at = below(bytes), length = below(8) + 1;
  const char *word = words[below(sizeof words / sizeof *words)];
  switch (below(4)) {
    case 0: text[at] = (char)below(256); return bytes;
    case 1:
      length = length < bytes - at ? length : bytes - at;
      memmove(text + at, text + at + length, bytes - at - length);
      return bytes - length;
    case 2:
      length = strlen(word);
      memmove(text + at + length, text + at, bytes - at);
      memcpy(text + at, word, length);
      return bytes + length;
    default: return below(20) ? bytes : at;
  }
}

static void fuzz(unsigned long count) {
  size_t bytes, taken = 0;
  char *good = frame(&bytes);
  for (unsigned long one = 0; good && one < count; one++) {
    char *wild = malloc(bytes + 1024), message[EDGE_MESSAGE] = "";
    size_t length = bytes;
    if (!wild) exit(7);
    memcpy(wild, good, bytes);
    for (size_t changes = below(8) + 1; changes && length > 1; changes--) length = change(wild, length);
    char *text = malloc(length + 1); /* of just its size, so that a byte too far is noticed */
    if (!text) exit(7);
    memcpy(text, wild, length);
    text[length] = 0;
    edge_manifest manifest;
    taken += edge_read_manifest(&manifest, text, length, message);
    edge_free_manifest(&manifest);
    free(text);
    free(wild);
  }
  free(good);
  printf("%zu\n", taken);
}

int main(int argc, char **argv) {
  if (argc == 4) seed = strtoul(argv[3], NULL, 10);
  if (argc == 4 && strcmp(argv[1], "fuzz") == 0) return fuzz(strtoul(argv[2], NULL, 10)), 0;
  if (argc != 2) return 2;
  if (strcmp(argv[1], "manifests") == 0) return manifests(), 0;
  if (strcmp(argv[1], "paths") == 0) return paths(), 0;
  if (strcmp(argv[1], "sha256") == 0) return digests(), 0;
  if (strcmp(argv[1], "prepare") == 0) return prepare(), 0;
  return 2;
}
