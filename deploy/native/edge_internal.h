/* What the parts of the reader share. No app needs it. */
#ifndef EDGE_INTERNAL_H
#define EDGE_INTERNAL_H

#include "edge_model.h"

#define EDGE_MANIFEST "manifest.json"
#define EDGE_LARGEST_MANIFEST ((size_t)1 << 24)

/* Write a message of one line of ASCII; always false. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
bool edge_refuse(char *message, const char *format, ...);

/* -- edge_json.c: values are places in a text that json_check() found to be a JSON document -------------------------
 */

typedef struct {
  const char *at, *end;
} json;

/* NULL, or what is wrong with the text. */
const char *json_check(const char *text, size_t bytes, json *whole);
/* '{' '[' '"' '0' for a number, 't' 'f' 'n'. */
char json_kind(json value);
/* How often an object has a key: 0, 1 or 2 for more; an array's or number's are 0. */
int json_member(json object, const char *key, json *found);
/* The items of an array: `cursor` begins as NULL; false after the last, and at once if it is no array. */
bool json_next(json array, const char **cursor, json *item);
bool json_whole(json value, int64_t *found); /* written without fraction and exponent, and fits */
bool json_real(json value, double *found);   /* finite */
/* A string decoded to UTF-8 with a zero at its end: at most value.end - value.at bytes. False: it is no string, or has
 * a zero or half a surrogate pair in it. */
bool json_text(json value, char *into);

/* -- edge_manifest.c -------------------------------------------------------------------------------------------------
 */

enum { EDGE_DTYPES = 9 };
extern const char *const edge_dtypes[EDGE_DTYPES];
extern const size_t edge_item_bytes[EDGE_DTYPES];
enum { EDGE_FLOAT32, EDGE_FLOAT64, EDGE_FLOAT16, EDGE_INT64, EDGE_INT32, EDGE_INT16, EDGE_INT8, EDGE_UINT8, EDGE_BOOL };

enum {
  EDGE_MODEL_ROLE,
  EDGE_GOLDEN_ROLE,
  EDGE_LABELS_ROLE,
  EDGE_RUNTIME_ROLE,
  EDGE_CODE_ROLE,
  EDGE_TEXT_ROLE,
  EDGE_ROLES
};
enum { EDGE_GRAY, EDGE_RGB, EDGE_BGR, EDGE_COLORS };
enum { EDGE_NONE, EDGE_STRETCH, EDGE_CENTRE_CROP, EDGE_RESIZES };
enum { EDGE_NEAREST, EDGE_BILINEAR, EDGE_INTERPOLATIONS };
enum { EDGE_NCHW, EDGE_NHWC, EDGE_LAYOUTS };

typedef struct {
  const char *name;
  int dtype;
  size_t rank;
  int64_t shape[EDGE_RANK]; /* -1: free */
} edge_spec;

typedef struct {
  size_t size[2];
  int color, resize, interpolation, layout;
  size_t channels;
  double scale, mean[3], std[3];
} edge_steps;

typedef struct {
  edge_spec spec;
  bool takes_image;
  edge_steps steps;
  const char *labels; /* of an output; NULL: none */
} edge_port;

typedef struct {
  edge_spec spec;
  const char *path;
  size_t bytes, count;
} edge_raw;

typedef struct {
  edge_raw pixels, prepared;
  size_t size[2];
} edge_pair;

typedef struct {
  const char *path;
  char *lower;
  int role;
  uint64_t bytes;
  char sha256[65];
} edge_file;

typedef struct {
  const char *model, *model_file, *target, *precision;
  double tolerance, image_tolerance;
  size_t n_inputs, n_outputs, n_files, n_image_outputs;
  edge_port *inputs, *outputs;
  edge_raw *golden_inputs, *golden_outputs, *image_outputs;
  edge_file *files; /* sorted by path */
  bool has_image, has_resized;
  edge_pair image, resized;
  char *texts;
} edge_manifest;

/* Read a manifest of unknown origin; false: it is refused. To be freed in both cases. */
bool edge_read_manifest(edge_manifest *into, const char *text, size_t bytes, char *message);
void edge_free_manifest(edge_manifest *manifest);
bool edge_is_path(const char *text, size_t length);
const edge_file *edge_find_file(const edge_manifest *manifest, const char *path, size_t length);

/* -- edge_files.c ----------------------------------------------------------------------------------------------------
 */

/* The bytes of a regular file in a folder, reached by no link, of at most `most`; NULL: refused. With a zero behind. */
char *edge_read_file(int folder, const char *path, size_t most, size_t *bytes, char *message);
/* Every listed file is there and whole, and no other. */
bool edge_check_files(const char *folder, const edge_manifest *manifest, char *message);
/* 64 hexadecimal digits of a buffer, and a zero. */
void edge_sha256(const void *data, size_t bytes, char hex[65]);

/* -- edge_prepare.c --------------------------------------------------------------------------------------------------
 */

/* An image of bytes as a tensor of float32 with a batch of one: size[0] * size[1] * channels numbers, to be freed. In
 * double precision from the bytes on and rounded once. NULL: refused. */
float *edge_prepare(const edge_steps *steps, const size_t size[2], const uint8_t *pixels, size_t height, size_t width,
                    size_t channels, char *message);

#endif
