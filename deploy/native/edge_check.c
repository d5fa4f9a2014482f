/* edge_check FOLDER: is this bundle whole, and does its model answer here as PyTorch did? One line on standard error,
 * one JSON object on standard output. Exit code 0: it does; 1: it is refused; 2: the command is not understood. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "edge_model.h"

static const char usage[] =
    "usage: edge_check [--image FILE.pgm|FILE.ppm] [--library libonnxruntime.so] [--threads N] [--seconds S] FOLDER\n"
    "  --image    then answer for an image: binary PGM or PPM with bytes (P5, P6), of any size\n"
    "  --seconds  then measure for so long, on zeros of the smallest size\n";

typedef struct {
  const char *folder, *image;
  edge_options options;
  double seconds;
} request;

static void print_text(const char *text) {
  putchar('"');
  for (; *text; text++) {
    if (*text == '"' || *text == '\\') putchar('\\');
    if ((unsigned char)*text < 0x20)
      printf("\\u%04x", (unsigned)*text);
    else
      putchar(*text);
  }
  putchar('"');
}

static void print_number(double number) {
  if (isfinite(number))
    printf("%.9g", number);
  else
    printf("\"%s\"", number > 0 ? "inf" : "-inf"); /* JSON has none */
}

static int refused(const char *message) {
  fprintf(stderr, "edge_check: refused: %s\n", message);
  printf("{\"ok\": false, \"reason\": ");
  print_text(message);
  printf("}\n");
  return 1;
}

/* -- images -----------------------------------------------------------------------------------------------------------
 */

static int header_number(FILE *file) {
  int c = getc(file), number = 0;
  while (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '#') {
    if (c == '#')
      while (c != '\n' && c != EOF) c = getc(file);
    else
      c = getc(file);
  }
  if (c < '0' || c > '9') return -1;
  for (; c >= '0' && c <= '9' && number < 1000000; c = getc(file)) number = number * 10 + (c - '0');
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' ? number : -1;
}

/* Bytes of a binary PGM or PPM; NULL: it is none. */
static uint8_t *read_image(const char *path, size_t *height, size_t *width, size_t *channels) {
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  int magic = getc(file) == 'P' ? getc(file) : 0;
  int w = header_number(file), h = header_number(file), most = header_number(file);
  uint8_t *pixels = NULL;
  if ((magic == '5' || magic == '6') && w > 0 && h > 0 && w <= 65536 && h <= 65536 && most == 255) {
    *height = (size_t)h, *width = (size_t)w, *channels = magic == '5' ? 1 : 3;
    size_t bytes = *height * *width * *channels;
    pixels = malloc(bytes);
    if (pixels && fread(pixels, 1, bytes, file) != bytes) {
      free(pixels);
      pixels = NULL;
    }
  }
  fclose(file);
  return pixels;
}

static void print_output(const edge_model *model, const edge_tensor *output, size_t index) {
  size_t count = output->bytes / sizeof(float), best = 0;
  if (strcmp(output->dtype, "float32") != 0) return; /* others are an app's to read */
  printf("%s", index ? ", " : "");
  print_text(output->name);
  printf(": {\"numbers\": [");
  for (size_t i = 0; i < count; i++) {
    float number;
    memcpy(&number, (const char *)output->data + i * sizeof number, sizeof number);
    if (number > ((const float *)output->data)[best]) best = i;
    printf("%s", i ? ", " : "");
    print_number(number);
  }
  const char *label = edge_label(model, index, best);
  printf("]");
  if (label && output->rank == 2 && (size_t)output->shape[1] == count) {
    printf(", \"label\": ");
    print_text(label);
  }
  printf("}");
}

static bool answer(edge_model *model, const char *path, edge_tensor *outputs, char *message) {
  size_t height = 0, width = 0, channels = 0;
  uint8_t *pixels = read_image(path, &height, &width, &channels);
  if (!pixels) {
    snprintf(message, EDGE_MESSAGE, "%.200s: no binary PGM or PPM of bytes, or memory is short", path);
    return false;
  }
  bool ran = edge_run_image(model, pixels, height, width, channels, outputs, message);
  free(pixels);
  return ran;
}

/* -- time -------------------------------------------------------------------------------------------------------------
 */

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Zeros of an input's dtype, 1 for each free size; the data is to be freed. */
static edge_tensor zeros(const edge_model *model, size_t index) {
  static const struct {
    const char *name;
    size_t bytes;
  } items[] = {{"float32", 4}, {"int32", 4}, {"float64", 8}, {"int64", 8}, {"float16", 2}, {"int16", 2}};
  edge_tensor tensor = edge_input(model, index);
  tensor.bytes = 1;
  for (size_t i = 0; i < sizeof items / sizeof *items; i++)
    if (strcmp(tensor.dtype, items[i].name) == 0) tensor.bytes = items[i].bytes;
  for (size_t axis = 0; axis < tensor.rank; axis++) {
    if (tensor.shape[axis] < 0) tensor.shape[axis] = 1;
    tensor.bytes *= (size_t)tensor.shape[axis];
  }
  tensor.data = calloc(1, tensor.bytes);
  return tensor;
}

enum { MOST_BLOCKS = 1000 };

/* Medians of blocks of at least 20 ms. False: the model does not run. */
static bool measure(edge_model *model, double seconds, edge_tensor *outputs, double *median_ms, char *message) {
  static double blocks[MOST_BLOCKS];
  size_t count = edge_inputs(model), used = 0;
  edge_tensor *inputs = calloc(count, sizeof *inputs);
  bool ran = inputs != NULL;
  for (size_t i = 0; ran && i < count; i++) inputs[i] = zeros(model, i);
  for (double end = now() + seconds; ran && used < MOST_BLOCKS && (!used || now() < end);) {
    double from = now(), took = 0;
    int runs = 0;
    for (; ran && took < 0.02; runs++, took = now() - from) ran = edge_run(model, inputs, outputs, message);
    blocks[used++] = took / (runs ? runs : 1) * 1e3;
  }
  for (size_t i = 0; inputs && i < count; i++) free(inputs[i].data);
  free(inputs);
  qsort(blocks, used, sizeof *blocks, by_size);
  *median_ms = used ? blocks[used / 2] : 0;
  return ran;
}

/* -- the command ------------------------------------------------------------------------------------------------------
 */

static bool parse(int argc, char **argv, request *asked) {
  for (int i = 1; i < argc; i++) {
    const char *value = i + 1 < argc ? argv[i + 1] : NULL;
    char *end = NULL;
    if (strncmp(argv[i], "--", 2) != 0) {
      if (asked->folder) return false;
      asked->folder = argv[i];
      continue;
    }
    if (!value) return false;
    if (strcmp(argv[i], "--image") == 0) {
      asked->image = value;
    } else if (strcmp(argv[i], "--library") == 0) {
      asked->options.library = value;
    } else if (strcmp(argv[i], "--threads") == 0) {
      long threads = strtol(value, &end, 10);
      if (*end || end == value || threads < 0 || threads > 1024) return false;
      asked->options.threads = (int)threads;
    } else if (strcmp(argv[i], "--seconds") == 0) {
      asked->seconds = strtod(value, &end);
      if (*end || end == value || !(asked->seconds >= 0 && asked->seconds <= 3600)) return false;
    } else {
      return false;
    }
    i++;
  }
  return asked->folder != NULL;
}

static void print_report(const edge_report *report) {
  printf("{\"ok\": true, \"model\": ");
  print_text(report->model);
  printf(", \"target\": ");
  print_text(report->target);
  printf(", \"precision\": ");
  print_text(report->precision);
  printf(", \"files\": %zu, \"tolerance\": %g, \"golden_error\": %.9g, \"image_error\": ", report->files,
         report->tolerance, report->golden_error);
  if (report->image_error < 0)
    printf("null");
  else
    printf("%.9g", report->image_error);
}

static int check(edge_model *model, const request *asked) {
  char message[EDGE_MESSAGE] = "out of memory";
  edge_tensor *outputs = calloc(edge_outputs(model), sizeof *outputs);
  double median_ms = 0;
  bool fine = outputs && (asked->seconds < 0 || measure(model, asked->seconds, outputs, &median_ms, message)) &&
              (!asked->image || answer(model, asked->image, outputs, message));
  if (fine) {
    const edge_report *report = edge_reported(model);
    fprintf(stderr, "edge_check: ok: %zu files are whole, golden error %.1e (allowed %.0e)\n", report->files,
            report->golden_error, report->tolerance);
    print_report(report);
    if (asked->seconds >= 0) printf(", \"median_ms\": %.4g", median_ms);
    if (asked->image) printf(", \"outputs\": {");
    for (size_t i = 0; asked->image && i < edge_outputs(model); i++) print_output(model, &outputs[i], i);
    printf("%s}\n", asked->image ? "}" : "");
  }
  free(outputs);
  return fine ? 0 : refused(message);
}

int main(int argc, char **argv) {
  char message[EDGE_MESSAGE];
  request asked = {.seconds = -1};
  if (!parse(argc, argv, &asked)) {
    fputs(usage, stderr);
    return 2;
  }
  edge_model *model = edge_open(asked.folder, &asked.options, message);
  int code = model ? check(model, &asked) : refused(message);
  edge_close(model);
  return code;
}
