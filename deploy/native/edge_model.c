/* A bundle's model over the C interface of ONNX Runtime, opened only once everything in it is proved. */
#define _POSIX_C_SOURCE 200809L
#include "edge_model.h"

#include <fcntl.h>
#include <math.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "edge_internal.h"
#ifndef EDGE_LINKED
#include <dlfcn.h>
#endif

enum { API = 18 }; /* of ONNX Runtime 1.18, the oldest that will do; later ones only add to it */
#define MOST_LABEL_BYTES ((size_t)1 << 24)

typedef struct {
  char *text;
  const char **lines;
  size_t count;
} labels;

struct edge_model {
  edge_manifest manifest;
  edge_report report;
  int folder;
  void *library;
  const OrtApi *api;
  OrtEnv *env;
  OrtSession *session;
  OrtMemoryInfo *memory;
  OrtValue **values; /* of the last run's outputs */
  const char **input_names, **output_names;
  labels *labels;
};

static const ONNXTensorElementDataType kinds[EDGE_DTYPES] = {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,  ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL};

/* Whether a call of the runtime succeeded; else its message. */
static bool fine(const OrtApi *api, OrtStatus *status, char *message) {
  if (!status) return true;
  edge_refuse(message, "ONNX Runtime: %.400s", api->GetErrorMessage(status));
  api->ReleaseStatus(status);
  return false;
}

/* -- the library ------------------------------------------------------------------------------------------------------
 */

#ifdef EDGE_LINKED
static const OrtApiBase *base_of(edge_model *model, const char *file, char *message) {
  (void)model, (void)file, (void)message;
  return OrtGetApiBase();
}
#else
static const OrtApiBase *base_of(edge_model *model, const char *file, char *message) {
  static const char *const usual[] = {"libonnxruntime.so.1", "libonnxruntime.so", "libonnxruntime.dylib"};
  const OrtApiBase *(*get)(void) = NULL;
  if (file) model->library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  for (size_t i = 0; !file && !model->library && i < sizeof usual / sizeof *usual; i++)
    model->library = dlopen(usual[i], RTLD_NOW | RTLD_LOCAL);
  void *symbol = model->library ? dlsym(model->library, "OrtGetApiBase") : NULL;
  memcpy(&get, &symbol, sizeof get); /* ISO C turns no pointer to data into one to a function */
  if (get) return get();
  const char *why = dlerror();
  edge_refuse(message, "ONNX Runtime's library does not load: %.300s", why ? why : "it has no OrtGetApiBase");
  return NULL;
}
#endif

static bool load_runtime(edge_model *model, const char *file, char *message) {
  setenv("ORT_DISABLE_TELEMETRY", "1", 1); /* before the library is there: from 1.29 on an environment reports home */
  const OrtApiBase *base = base_of(model, file, message);
  if (!base) return false;
  model->api = base->GetApi(API);
  if (!model->api) return edge_refuse(message, "ONNX Runtime %.40s is older than 1.%d", base->GetVersionString(), API);
  return fine(model->api, model->api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "edge", &model->env), message);
}

static bool load_model(edge_model *model, const char *folder, int threads, char *message) {
  const OrtApi *api = model->api;
  OrtSessionOptions *options = NULL;
  size_t room = strlen(folder) + strlen(model->manifest.model_file) + 2;
  char *path = malloc(room);
  if (!path) return edge_refuse(message, "out of memory");
  snprintf(path, room, "%s/%s", folder, model->manifest.model_file);
  bool loaded = fine(api, api->CreateSessionOptions(&options), message) &&
                fine(api, api->SetIntraOpNumThreads(options, threads), message) &&
                fine(api, api->CreateSession(model->env, path, options, &model->session), message) &&
                fine(api, api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &model->memory), message);
  if (options) api->ReleaseSessionOptions(options);
  free(path);
  return loaded;
}

/* -- is it the model of the manifest? ---------------------------------------------------------------------------------
 */

static bool same_type(const OrtApi *api, OrtTypeInfo *type, const edge_spec *spec, char *message) {
  const OrtTensorTypeAndShapeInfo *tensor = NULL;
  ONNXTensorElementDataType kind = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  int64_t shape[EDGE_RANK];
  size_t rank = 0;
  if (!fine(api, api->CastTypeInfoToTensorInfo(type, &tensor), message)) return false;
  bool read = tensor && fine(api, api->GetTensorElementType(tensor, &kind), message) &&
              fine(api, api->GetDimensionsCount(tensor, &rank), message) && rank == spec->rank &&
              fine(api, api->GetDimensions(tensor, shape, rank), message);
  bool same = read && kind == kinds[spec->dtype];
  for (size_t axis = 0; same && axis < rank; axis++) same = (shape[axis] < 0 ? -1 : shape[axis]) == spec->shape[axis];
  return same || edge_refuse(message, EDGE_MANIFEST ": %.200s has another dtype or shape in the model", spec->name);
}

static bool same_port(const edge_model *model, bool input, size_t index, const edge_spec *spec, char *message) {
  const OrtApi *api = model->api;
  OrtAllocator *allocator = NULL;
  OrtTypeInfo *type = NULL;
  char *name = NULL;
  bool same =
      fine(api, api->GetAllocatorWithDefaultOptions(&allocator), message) &&
      fine(api, (input ? api->SessionGetInputName : api->SessionGetOutputName)(model->session, index, allocator, &name),
           message) &&
      fine(api, (input ? api->SessionGetInputTypeInfo : api->SessionGetOutputTypeInfo)(model->session, index, &type),
           message);
  if (same && strcmp(name, spec->name) != 0)
    same = edge_refuse(message, EDGE_MANIFEST ": %.200s is not %s %zu of the model", spec->name,
                       input ? "input" : "output", index);
  same = same && same_type(api, type, spec, message);
  if (type) api->ReleaseTypeInfo(type);
  if (name && !fine(api, api->AllocatorFree(allocator, name), message)) same = false;
  return same;
}

static bool same_signature(edge_model *model, char *message) {
  const edge_manifest *m = &model->manifest;
  const OrtApi *api = model->api;
  size_t inputs = 0, outputs = 0;
  if (!fine(api, api->SessionGetInputCount(model->session, &inputs), message) ||
      !fine(api, api->SessionGetOutputCount(model->session, &outputs), message))
    return false;
  if (inputs != m->n_inputs || outputs != m->n_outputs)
    return edge_refuse(message, EDGE_MANIFEST ": inputs or outputs are not as many as the model's");
  for (size_t index = 0; index < inputs; index++)
    if (!same_port(model, true, index, &m->inputs[index].spec, message)) return false;
  for (size_t index = 0; index < outputs; index++)
    if (!same_port(model, false, index, &m->outputs[index].spec, message)) return false;
  return true;
}

/* -- numbers ----------------------------------------------------------------------------------------------------------
 */

static double half(uint16_t bits) {
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double size = exponent == 31 ? (fraction ? NAN : INFINITY)
                               : ldexp(exponent ? fraction + 1024 : fraction, (exponent ? exponent : 1) - 25);
  return bits >> 15 ? -size : size;
}

#define NUMBER(type)                                                         \
  {                                                                          \
    type found;                                                              \
    memcpy(&found, (const char *)data + index * sizeof found, sizeof found); \
    return (double)found;                                                    \
  }

static double number_at(const void *data, int dtype, size_t index) {
  uint16_t bits;
  switch (dtype) {
    case EDGE_FLOAT32: NUMBER(float)
    case EDGE_FLOAT64: NUMBER(double)
    case EDGE_INT64: NUMBER(int64_t)
    case EDGE_INT32: NUMBER(int32_t)
    case EDGE_INT16: NUMBER(int16_t)
    case EDGE_INT8: NUMBER(int8_t)
    case EDGE_FLOAT16: memcpy(&bits, (const char *)data + index * sizeof bits, sizeof bits); return half(bits);
    default: return ((const uint8_t *)data)[index];
  }
}

static bool has_nan(const void *data, int dtype, size_t count) {
  for (size_t index = 0; dtype <= EDGE_FLOAT16 && index < count; index++)
    if (isnan(number_at(data, dtype, index))) return true;
  return false;
}

/* How far numbers are from those expected, as a fraction of the largest; infinity has to stand where it is expected. */
static bool difference(const char *name, const void *ours, const void *theirs, int dtype, size_t count, double *worst,
                       char *message) {
  double apart = 0, largest = -1;
  for (size_t index = 0; index < count; index++) {
    double a = number_at(ours, dtype, index), b = number_at(theirs, dtype, index);
    if (isfinite(b) ? !isfinite(a) : a != b) return edge_refuse(message, "%.200s: NaN or infinity came out", name);
    if (!isfinite(b)) continue;
    largest = fmax(largest, fabs(b));
    apart = fmax(apart, fabs(a - b));
  }
  if (largest < 0) return edge_refuse(message, "%.200s: no finite golden number is there to compare with", name);
  *worst = fmax(*worst, apart / fmax(largest, 1e-6));
  return true;
}

static char *read_raw(const edge_model *model, const edge_raw *raw, char *message) {
  size_t bytes = 0;
  char *data = edge_read_file(model->folder, raw->path, raw->bytes, &bytes, message);
  if (!data) return NULL;
  if (bytes != raw->bytes)
    edge_refuse(message, "%.200s has not the bytes of its shape", raw->path);
  else if (has_nan(data, raw->spec.dtype, raw->count))
    edge_refuse(message, "%.200s holds NaN, which proves nothing", raw->path);
  else
    return data;
  free(data);
  return NULL;
}

/* -- running ----------------------------------------------------------------------------------------------------------
 */

static edge_tensor tensor_of(const edge_spec *spec, void *data, size_t bytes) {
  edge_tensor tensor = {
      .name = spec->name, .dtype = edge_dtypes[spec->dtype], .rank = spec->rank, .data = data, .bytes = bytes};
  memcpy(tensor.shape, spec->shape, sizeof tensor.shape);
  return tensor;
}

static bool accepts(const edge_spec *spec, const edge_tensor *tensor, char *message) {
  size_t count = 1, item = edge_item_bytes[spec->dtype];
  bool same = tensor->rank == spec->rank && tensor->data && tensor->dtype &&
              strcmp(tensor->dtype, edge_dtypes[spec->dtype]) == 0;
  for (size_t axis = 0; same && axis < spec->rank; axis++) {
    int64_t size = tensor->shape[axis];
    same =
        size > 0 && (spec->shape[axis] < 0 || spec->shape[axis] == size) && (uint64_t)size <= SIZE_MAX / item / count;
    if (same) count *= (size_t)size;
  }
  same = same && tensor->bytes == count * item;
  return same || edge_refuse(message, "%.200s: the tensor has not its dtype, shape and bytes", spec->name);
}

static void forget_outputs(edge_model *model) {
  for (size_t index = 0; model->values && index < model->manifest.n_outputs; index++) {
    if (model->values[index]) model->api->ReleaseValue(model->values[index]);
    model->values[index] = NULL;
  }
}

static bool output_of(edge_model *model, size_t index, edge_tensor *output, char *message) {
  const OrtApi *api = model->api;
  const edge_spec *spec = &model->manifest.outputs[index].spec;
  OrtTensorTypeAndShapeInfo *info = NULL;
  ONNXTensorElementDataType kind = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  size_t count = 0, rank = 0;
  void *data = NULL;
  edge_tensor found = tensor_of(spec, NULL, 0);
  bool read = fine(api, api->GetTensorTypeAndShape(model->values[index], &info), message) &&
              fine(api, api->GetTensorElementType(info, &kind), message) &&
              fine(api, api->GetDimensionsCount(info, &rank), message) &&
              fine(api, api->GetTensorShapeElementCount(info, &count), message) &&
              fine(api, api->GetTensorMutableData(model->values[index], &data), message);
  if (read && (rank != spec->rank || kind != kinds[spec->dtype]))
    read = edge_refuse(message, "%.200s came out with another dtype or shape", spec->name);
  read = read && fine(api, api->GetDimensions(info, found.shape, rank), message);
  if (info) api->ReleaseTensorTypeAndShapeInfo(info);
  if (!read) return false;
  if (has_nan(data, spec->dtype, count)) return edge_refuse(message, "%.200s: NaN came out", spec->name);
  found.data = data;
  found.bytes = count * edge_item_bytes[spec->dtype];
  *output = found;
  return true;
}

static bool run(edge_model *model, const edge_tensor *inputs, char *message) {
  const OrtApi *api = model->api;
  const edge_manifest *m = &model->manifest;
  OrtValue **fed = calloc(m->n_inputs, sizeof *fed);
  bool ran = fed || edge_refuse(message, "out of memory");
  forget_outputs(model);
  for (size_t index = 0; ran && index < m->n_inputs; index++) {
    const edge_tensor *one = &inputs[index];
    ran = accepts(&m->inputs[index].spec, one, message) &&
          fine(api,
               api->CreateTensorWithDataAsOrtValue(model->memory, one->data, one->bytes, one->shape, one->rank,
                                                   kinds[m->inputs[index].spec.dtype], &fed[index]),
               message);
  }
  ran = ran && fine(api,
                    api->Run(model->session, NULL, model->input_names, (const OrtValue *const *)fed, m->n_inputs,
                             model->output_names, m->n_outputs, model->values),
                    message);
  for (size_t index = 0; fed && index < m->n_inputs; index++)
    if (fed[index]) api->ReleaseValue(fed[index]);
  free(fed);
  return ran;
}

bool edge_run(edge_model *model, const edge_tensor *inputs, edge_tensor *outputs, char message[EDGE_MESSAGE]) {
  bool ran = run(model, inputs, message);
  for (size_t index = 0; ran && index < model->manifest.n_outputs; index++)
    ran = output_of(model, index, &outputs[index], message);
  return ran;
}

bool edge_run_image(edge_model *model, const uint8_t *pixels, size_t height, size_t width, size_t channels,
                    edge_tensor *outputs, char message[EDGE_MESSAGE]) {
  const edge_port *port = &model->manifest.inputs[0];
  if (model->manifest.n_inputs != 1 || !port->takes_image)
    return edge_refuse(message, "the model takes no single image");
  float *data = edge_prepare(&port->steps, port->steps.size, pixels, height, width, channels, message);
  if (!data) return false;
  size_t first = port->steps.layout == EDGE_NHWC ? 1 : 2;
  edge_tensor input =
      tensor_of(&port->spec, data, port->steps.size[0] * port->steps.size[1] * port->steps.channels * sizeof *data);
  input.shape[0] = 1;
  input.shape[first == 1 ? 3 : 1] = (int64_t)port->steps.channels;
  input.shape[first] = (int64_t)port->steps.size[0];
  input.shape[first + 1] = (int64_t)port->steps.size[1];
  bool ran = edge_run(model, &input, outputs, message);
  free(data);
  return ran;
}

/* -- the check --------------------------------------------------------------------------------------------------------
 */

/* The last run's outputs against raw files. */
static bool compare(edge_model *model, const edge_raw *wanted, double *worst, char *message) {
  for (size_t index = 0; index < model->manifest.n_outputs; index++) {
    const edge_raw *raw = &wanted[index];
    edge_tensor output;
    char *theirs = output_of(model, index, &output, message) ? read_raw(model, raw, message) : NULL;
    if (!theirs) return false;
    bool same = output.rank == raw->spec.rank &&
                memcmp(output.shape, raw->spec.shape, raw->spec.rank * sizeof *output.shape) == 0;
    if (!same) edge_refuse(message, "%.200s came out with another shape than the golden one", raw->spec.name);
    same = same && difference(raw->spec.name, output.data, theirs, raw->spec.dtype, raw->count, worst, message);
    free(theirs);
    if (!same) return false;
  }
  return true;
}

static bool within(const char *what, double error, double allowed, char *message) {
  if (error <= allowed) return true;
  return edge_refuse(message, "%s by %.2e of the largest number (allowed %.0e)", what, error, allowed);
}

static bool check_golden(edge_model *model, char *message) {
  const edge_manifest *m = &model->manifest;
  edge_tensor *inputs = calloc(m->n_inputs, sizeof *inputs);
  bool read = inputs || edge_refuse(message, "out of memory");
  for (size_t index = 0; read && index < m->n_inputs; index++) {
    const edge_raw *raw = &m->golden_inputs[index];
    inputs[index] = tensor_of(&raw->spec, read_raw(model, raw, message), raw->bytes);
    read = inputs[index].data != NULL;
  }
  bool same =
      read && run(model, inputs, message) && compare(model, m->golden_outputs, &model->report.golden_error, message);
  for (size_t index = 0; inputs && index < m->n_inputs; index++) free(inputs[index].data);
  free(inputs);
  return same && within("the answers to the golden inputs differ", model->report.golden_error, m->tolerance, message);
}

static bool check_pair(edge_model *model, const edge_pair *pair, char *message) {
  const edge_raw *pixels = &pair->pixels;
  const int64_t *shape = pixels->spec.shape;
  char *bytes = read_raw(model, pixels, message), *theirs = bytes ? read_raw(model, &pair->prepared, message) : NULL;
  float *ours = theirs ? edge_prepare(&model->manifest.inputs[0].steps, pair->size, (const uint8_t *)bytes,
                                      (size_t)shape[0], (size_t)shape[1], (size_t)shape[2], message)
                       : NULL;
  bool same = ours && difference("the golden image", ours, theirs, EDGE_FLOAT32, pair->prepared.count,
                                 &model->report.image_error, message);
  free(ours);
  free(theirs);
  free(bytes);
  return same;
}

static bool check_image_answers(edge_model *model, char *message) {
  const edge_raw *pixels = &model->manifest.image.pixels;
  const int64_t *shape = pixels->spec.shape;
  edge_tensor *outputs = calloc(model->manifest.n_outputs, sizeof *outputs);
  char *bytes = outputs ? read_raw(model, pixels, message) : NULL;
  double error = 0;
  bool same = bytes &&
              edge_run_image(model, (const uint8_t *)bytes, (size_t)shape[0], (size_t)shape[1], (size_t)shape[2],
                             outputs, message) &&
              compare(model, model->manifest.image_outputs, &error, message) &&
              within("the answers to the golden image differ", error, model->manifest.tolerance, message);
  free(bytes);
  free(outputs);
  return same;
}

static bool check_image(edge_model *model, char *message) {
  const edge_manifest *m = &model->manifest;
  model->report.image_error = m->has_image ? 0 : -1;
  if (!m->has_image) return true;
  if (!check_pair(model, &m->image, message) || (m->has_resized && !check_pair(model, &m->resized, message)))
    return false;
  if (!within("the golden image is prepared with an error", model->report.image_error, m->image_tolerance, message))
    return false;
  return !m->n_image_outputs || check_image_answers(model, message);
}

/* -- opening ----------------------------------------------------------------------------------------------------------
 */

static bool read_manifest(edge_model *model, const char *folder, char *message) {
  size_t bytes = 0;
  model->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (model->folder < 0) return edge_refuse(message, EDGE_MANIFEST " is missing: %.200s is no folder", folder);
  char *text = edge_read_file(model->folder, EDGE_MANIFEST, EDGE_LARGEST_MANIFEST, &bytes, message);
  bool read = text && edge_read_manifest(&model->manifest, text, bytes, message);
  free(text);
  const char *target = model->manifest.target;
  if (read && strcmp(target, "onnx") != 0 && strcmp(target, "ort") != 0)
    return edge_refuse(message, "ONNX Runtime runs .onnx and .ort; this model is one of %.40s", target);
  return read;
}

static bool split_lines(labels *found) {
  size_t lines = 0;
  for (const char *at = found->text; *at; at++) lines += *at == '\n';
  found->lines = calloc(lines + 1, sizeof *found->lines);
  if (!found->lines) return false;
  for (char *at = found->text, *end; *at; at = end + 1) {
    end = at + strcspn(at, "\n");
    bool last = !*end;
    *end = 0;
    found->lines[found->count++] = at;
    if (last) break;
  }
  return true;
}

static bool read_labels(edge_model *model, char *message) {
  const edge_manifest *m = &model->manifest;
  model->labels = calloc(m->n_outputs, sizeof *model->labels);
  if (!model->labels) return edge_refuse(message, "out of memory");
  for (size_t index = 0; index < m->n_outputs; index++) {
    labels *own = &model->labels[index];
    size_t bytes = 0;
    if (!m->outputs[index].labels) continue;
    own->text = edge_read_file(model->folder, m->outputs[index].labels, MOST_LABEL_BYTES, &bytes, message);
    if (!own->text) return false;
    if (!split_lines(own)) return edge_refuse(message, "out of memory");
  }
  return true;
}

static bool make_room(edge_model *model, char *message) {
  const edge_manifest *m = &model->manifest;
  model->values = calloc(m->n_outputs, sizeof *model->values);
  model->input_names = calloc(m->n_inputs, sizeof *model->input_names);
  model->output_names = calloc(m->n_outputs, sizeof *model->output_names);
  if (!model->values || !model->input_names || !model->output_names) return edge_refuse(message, "out of memory");
  for (size_t index = 0; index < m->n_inputs; index++) model->input_names[index] = m->inputs[index].spec.name;
  for (size_t index = 0; index < m->n_outputs; index++) model->output_names[index] = m->outputs[index].spec.name;
  model->report = (edge_report){.model = m->model,
                                .target = m->target,
                                .precision = m->precision,
                                .files = m->n_files,
                                .tolerance = m->tolerance};
  return true;
}

static bool is_little_endian(char *message) {
  const uint16_t one = 1;
  uint8_t first;
  memcpy(&first, &one, 1);
  return first || edge_refuse(message, "golden files are little-endian, this machine is not");
}

edge_model *edge_open(const char *folder, const edge_options *options, char message[EDGE_MESSAGE]) {
  static const edge_options usual = {NULL, 0};
  const edge_options *chosen = options ? options : &usual;
  edge_model *model = calloc(1, sizeof *model);
  *message = 0;
  if (!model) {
    edge_refuse(message, "out of memory");
    return NULL;
  }
  model->folder = -1;
  if (is_little_endian(message) && read_manifest(model, folder, message) &&
      edge_check_files(folder, &model->manifest, message) && make_room(model, message) && read_labels(model, message) &&
      load_runtime(model, chosen->library, message) && load_model(model, folder, chosen->threads, message) &&
      same_signature(model, message) && check_golden(model, message) && check_image(model, message))
    return model;
  edge_close(model);
  return NULL;
}

void edge_close(edge_model *model) {
  if (!model) return;
  forget_outputs(model);
  if (model->memory) model->api->ReleaseMemoryInfo(model->memory);
  if (model->session) model->api->ReleaseSession(model->session);
  if (model->env) model->api->ReleaseEnv(model->env);
  /* The library stays: threads of its own may still end. */
  for (size_t index = 0; model->labels && index < model->manifest.n_outputs; index++) {
    free(model->labels[index].text);
    free(model->labels[index].lines);
  }
  free(model->labels);
  free(model->values);
  free(model->input_names);
  free(model->output_names);
  if (model->folder >= 0) close(model->folder);
  edge_free_manifest(&model->manifest);
  free(model);
}

/* -- what it is -------------------------------------------------------------------------------------------------------
 */

const edge_report *edge_reported(const edge_model *model) { return &model->report; }
size_t edge_inputs(const edge_model *model) { return model->manifest.n_inputs; }
size_t edge_outputs(const edge_model *model) { return model->manifest.n_outputs; }

edge_tensor edge_input(const edge_model *model, size_t index) {
  return tensor_of(&model->manifest.inputs[index].spec, NULL, 0);
}

edge_tensor edge_output(const edge_model *model, size_t index) {
  return tensor_of(&model->manifest.outputs[index].spec, NULL, 0);
}

const char *edge_label(const edge_model *model, size_t output, size_t index) {
  if (output >= model->manifest.n_outputs || index >= model->labels[output].count) return NULL;
  return model->labels[output].lines[index];
}
