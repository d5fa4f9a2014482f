/* A compressed model behind a plain C interface: it is checked where it runs, and answers only once that passed.
 *
 * A bundle is the folder that holds manifest.json, the model, golden/ and labels.txt. edge_open() proves that every
 * file in it is listed and whole and that nothing else is there, runs the golden inputs and the golden image, and
 * compares with what PyTorch gave. Nothing opens a connection; ONNX Runtime's telemetry is off before its library is
 * loaded. Numbers are those of the machine, which has to be little-endian. A model is used by one thread at a time. */
#ifndef EDGE_MODEL_H
#define EDGE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGE_MESSAGE 512 /* bytes of a message: one line of ASCII, with the zero at its end */
#define EDGE_RANK 16     /* axes that a tensor has at most */

typedef struct edge_model edge_model;

typedef struct {
  const char *library; /* the file of ONNX Runtime; NULL: libonnxruntime.so as the system finds it */
  int threads;         /* that one run may use; 0: as many as ONNX Runtime likes */
} edge_options;

/* A tensor: its last axis is the fastest, dtype is float32, int64 ... as in the manifest. */
typedef struct {
  const char *name;
  const char *dtype;
  size_t rank;
  int64_t shape[EDGE_RANK]; /* -1 in what edge_input() and edge_output() return: a free size */
  void *data;
  size_t bytes;
} edge_tensor;

/* What edge_open() found. */
typedef struct {
  const char *model, *target, *precision;
  size_t files;
  double tolerance;    /* of outputs, as a fraction of the largest expected number */
  double golden_error; /* the same unit */
  double image_error;  /* of the prepared golden image; negative: the model takes no image */
} edge_report;

/* Check the bundle in `folder` and load its model. NULL: it is refused, and `message` says why. `options` may be NULL.
 */
edge_model *edge_open(const char *folder, const edge_options *options, char message[EDGE_MESSAGE]);
void edge_close(edge_model *model); /* NULL is fine */

const edge_report *edge_reported(const edge_model *model);

size_t edge_inputs(const edge_model *model);
size_t edge_outputs(const edge_model *model);
edge_tensor edge_input(const edge_model *model, size_t index); /* without data */
edge_tensor edge_output(const edge_model *model, size_t index);

/* Run the model on all its inputs, in their order. `outputs` has room for edge_outputs(); their data is the model's own
 * and stays until the next run. False: `message` says why, which NaN in an output is too. */
bool edge_run(edge_model *model, const edge_tensor *inputs, edge_tensor *outputs, char message[EDGE_MESSAGE]);

/* The same for one image of bytes (height, width, channels: gray 1, RGB 3, RGBA 4), prepared as the manifest says. */
bool edge_run_image(edge_model *model, const uint8_t *pixels, size_t height, size_t width, size_t channels,
                    edge_tensor *outputs, char message[EDGE_MESSAGE]);

/* The name of class `index` of an output; NULL: there is none. */
const char *edge_label(const edge_model *model, size_t output, size_t index);

#ifdef __cplusplus
}
#endif
#endif
