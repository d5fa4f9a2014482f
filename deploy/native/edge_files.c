/* Files of a folder that may be anyone's: reached by no link, of the size and SHA-256 that the manifest lists. */
#define _POSIX_C_SOURCE 200809L
#include "edge_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* -- SHA-256 (FIPS 180-4) ---------------------------------------------------------------------------------------------
 */

typedef struct {
  uint32_t state[8];
  uint64_t bytes;
  uint8_t block[64];
} hashing;

static const uint32_t fractions[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t turned(uint32_t word, int by) { return word >> by | word << (32 - by); }

static void mix(hashing *h, const uint8_t *block) {
  uint32_t words[64], s[8];
  for (int i = 0; i < 16; i++)
    words[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
  for (int i = 16; i < 64; i++) {
    uint32_t a = words[i - 15], b = words[i - 2];
    words[i] = words[i - 16] + words[i - 7] + (turned(a, 7) ^ turned(a, 18) ^ a >> 3) +
               (turned(b, 17) ^ turned(b, 19) ^ b >> 10);
  }
  memcpy(s, h->state, sizeof s);
  for (int i = 0; i < 64; i++) {
    uint32_t one = s[7] + (turned(s[4], 6) ^ turned(s[4], 11) ^ turned(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) +
                   fractions[i] + words[i];
    uint32_t two =
        (turned(s[0], 2) ^ turned(s[0], 13) ^ turned(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
    memmove(s + 1, s, 7 * sizeof *s);
    s[4] += one;
    s[0] = one + two;
  }
  for (int i = 0; i < 8; i++) h->state[i] += s[i];
}

static void start(hashing *h) {
  static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  memcpy(h->state, first, sizeof first);
  h->bytes = 0;
}

static void add(hashing *h, const uint8_t *data, size_t bytes) {
  while (bytes) {
    size_t used = (size_t)(h->bytes % 64), more = 64 - used < bytes ? 64 - used : bytes;
    memcpy(h->block + used, data, more);
    h->bytes += more;
    data += more;
    bytes -= more;
    if (used + more == 64) mix(h, h->block);
  }
}

static void finish(hashing *h, char hex[65]) {
  uint64_t bits = h->bytes * 8;
  uint8_t length[8];
  add(h, (const uint8_t *)"\x80", 1);
  while (h->bytes % 64 != 56) add(h, (const uint8_t *)"", 1);
  for (int i = 0; i < 8; i++) length[i] = (uint8_t)(bits >> (56 - 8 * i));
  add(h, length, 8);
  for (int i = 0; i < 64; i++) hex[i] = "0123456789abcdef"[h->state[i / 8] >> (28 - 4 * (i % 8)) & 15];
  hex[64] = 0;
}

void edge_sha256(const void *data, size_t bytes, char hex[65]) {
  hashing h;
  start(&h);
  add(&h, data, bytes);
  finish(&h, hex);
}

/* -- files ------------------------------------------------------------------------------------------------------------
 */

/* A regular file, or a folder, below a folder; every step refuses links. Negative: `message` says why. */
static int open_below(int folder, const char *path, bool directory, char *message) {
  char part[256];
  int at = dup(folder);
  for (const char *from = path; at >= 0; from += strlen(part) + 1) {
    size_t length = strcspn(from, "/");
    bool last = !from[length];
    if (length >= sizeof part) break;
    memcpy(part, from, length);
    part[length] = 0;
    int next =
        openat(at, part, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | (last && !directory ? 0 : O_DIRECTORY));
    close(at);
    at = next;
    if (last) break;
  }
  struct stat facts;
  if (at >= 0 && fstat(at, &facts) == 0 && (directory ? S_ISDIR(facts.st_mode) : S_ISREG(facts.st_mode))) return at;
  if (at >= 0) close(at);
  edge_refuse(message, "%.200s is missing, or is a link or no regular file; copy the whole folder", path);
  return -1;
}

/* As many bytes as there are, at most `most`; negative: it cannot be read. */
static ssize_t read_some(int file, void *into, size_t most) {
  ssize_t got;
  do got = read(file, into, most);
  while (got < 0 && errno == EINTR);
  return got;
}

char *edge_read_file(int folder, const char *path, size_t most, size_t *bytes, char *message) {
  struct stat facts;
  int file = open_below(folder, path, false, message);
  if (file < 0) return NULL;
  bool fine = fstat(file, &facts) == 0 && (uint64_t)facts.st_size <= most;
  char *content = fine ? malloc((size_t)facts.st_size + 1) : NULL;
  *bytes = 0;
  while (content && *bytes < (size_t)facts.st_size) {
    ssize_t got = read_some(file, content + *bytes, (size_t)facts.st_size - *bytes);
    if (got <= 0) break;
    *bytes += (size_t)got;
  }
  close(file);
  if (content) content[*bytes] = 0;
  if (!content) edge_refuse(message, "%.200s has more than %zu bytes, or memory is short", path, most);
  return content;
}

static bool is_whole(int folder, const edge_file *listed, char *message) {
  uint8_t *chunk = malloc(1 << 16);
  char hex[65] = "";
  hashing h;
  ssize_t got = -1;
  int file = chunk ? open_below(folder, listed->path, false, message) : -1;
  start(&h);
  while (file >= 0 && h.bytes <= listed->bytes && (got = read_some(file, chunk, 1 << 16)) > 0)
    add(&h, chunk, (size_t)got);
  if (file >= 0) close(file);
  if (chunk)
    free(chunk);
  else
    return edge_refuse(message, "out of memory");
  if (file < 0) return false;
  uint64_t bytes = h.bytes;
  finish(&h, hex);
  if (got == 0 && bytes == listed->bytes && strcmp(hex, listed->sha256) == 0) return true;
  return edge_refuse(message, "%.200s was changed or damaged: its size or sha256 differs from the manifest's",
                     listed->path);
}

static bool is_ignored(const char *name) { /* what systems leave behind */
  static const char *const names[] = {"__pycache__", ".DS_Store", "Thumbs.db", "desktop.ini"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(name, names[i]) == 0) return true;
  return false;
}

/* Whether a listed file lies below a path. */
static bool is_folder(const edge_manifest *manifest, const char *path, size_t length) {
  for (size_t i = 0; i < manifest->n_files; i++)
    if (strncmp(manifest->files[i].path, path, length) == 0 && manifest->files[i].path[length] == '/') return true;
  return false;
}

static bool no_others(int root, const char *path, const edge_manifest *manifest, char *message) {
  char below[512];
  int file = *path ? open_below(root, path, true, message) : dup(root);
  DIR *stream = file < 0 ? NULL : fdopendir(file);
  if (!stream) {
    if (file >= 0) close(file);
    return edge_refuse(message, "%.200s cannot be listed", *path ? path : "the folder");
  }
  rewinddir(stream); /* the root's place is shared by its duplicates */
  bool fine = true;
  for (struct dirent *entry = readdir(stream); fine && entry; entry = readdir(stream)) {
    const char *name = entry->d_name;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || is_ignored(name)) continue;
    size_t start_of = strlen(path), length = start_of + !!start_of + strlen(name);
    if (length >= sizeof below) { /* no listed path is as long */
      fine = edge_refuse(message, "%.200s is not listed in the manifest; move it out of this folder", name);
      break;
    }
    memcpy(below, path, start_of);
    if (start_of) below[start_of] = '/';
    strcpy(below + start_of + !!start_of, name);
    if (strcmp(below, EDGE_MANIFEST) == 0 || edge_find_file(manifest, below, length)) continue;
    if (is_folder(manifest, below, length))
      fine = no_others(root, below, manifest, message);
    else
      fine = edge_refuse(message, "%.200s is not listed in the manifest; move it out of this folder", below);
  }
  closedir(stream);
  return fine;
}

bool edge_check_files(const char *folder, const edge_manifest *manifest, char *message) {
  int root = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (root < 0) return edge_refuse(message, "%.200s is no folder", folder);
  bool fine = true;
  for (size_t index = 0; fine && index < manifest->n_files; index++)
    fine = is_whole(root, &manifest->files[index], message);
  fine = fine && no_others(root, "", manifest, message);
  close(root);
  return fine;
}
