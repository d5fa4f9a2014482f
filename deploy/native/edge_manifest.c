/* The manifest: everything in it is what it must be, or it is refused with the reason. */
#include "edge_internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KIND "edgecompress.bundle"
enum { VERSION = 2, LONGEST_PATH = 200, MOST_FILES = 2000, MOST_TENSORS = 256 };

const char *const edge_dtypes[EDGE_DTYPES] = {"float32", "float64", "float16", "int64", "int32",
                                              "int16",   "int8",    "uint8",   "bool"};
const size_t edge_item_bytes[EDGE_DTYPES] = {4, 8, 2, 8, 4, 2, 1, 1, 1};
static const char *const roles[EDGE_ROLES] = {"model", "golden", "labels", "runtime", "code", "text"};
static const char *const colors[EDGE_COLORS] = {"gray", "RGB", "BGR"};
static const char *const resizes[EDGE_RESIZES] = {"none", "stretch", "centre-crop"};
static const char *const interpolations[EDGE_INTERPOLATIONS] = {"nearest", "bilinear"};
static const char *const layouts[EDGE_LAYOUTS] = {"NCHW", "NHWC"};
static const char *const kinds[] = {"logits", "probabilities", "classes", "boxes", "embedding", "image", "tensor"};

typedef struct {
  edge_manifest *into;
  char *text; /* where the next string goes */
  char *message;
} reader;

bool edge_refuse(char *message, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, EDGE_MESSAGE, format, arguments);
  va_end(arguments);
  for (unsigned char *at = (unsigned char *)message; *at; at++)
    if (*at < 0x20 || *at > 0x7E) *at = '?';
  return false;
}

/* `where` is the path of a field, `what` is wrong with it. */
static bool bad(const reader *r, const char *where, const char *what) {
  return edge_refuse(r->message, EDGE_MANIFEST " is malformed: %.120s %s; make the bundle again", where, what);
}

static bool member(const reader *r, json object, const char *key, const char *where, json *found) {
  char full[160];
  int count = json_member(object, key, found);
  if (count == 1) return true;
  snprintf(full, sizeof full, "%s%s%s", where, *where ? "." : "", key);
  return bad(r, full, count ? "is there twice" : "is missing");
}

static bool string(reader *r, json value, const char *where, const char **found) {
  if (!json_text(value, r->text)) return bad(r, where, "is no text");
  *found = r->text;
  r->text += strlen(r->text) + 1;
  return true;
}

static bool text_member(reader *r, json object, const char *key, const char *where, const char **found) {
  json value;
  char full[160];
  snprintf(full, sizeof full, "%s%s%s", where, *where ? "." : "", key);
  return member(r, object, key, where, &value) && string(r, value, full, found);
}

static bool path_of(reader *r, json value, const char *where, const char **found) {
  char what[300];
  if (!string(r, value, where, found)) return false;
  if (edge_is_path(*found, strlen(*found))) return true;
  snprintf(what, sizeof what, "'%.200s' is not the path of a file in this folder", *found);
  return bad(r, where, what);
}

static bool path_member(reader *r, json object, const char *key, const char *where, const char **found) {
  json value;
  char full[160];
  snprintf(full, sizeof full, "%s%s%s", where, *where ? "." : "", key);
  return member(r, object, key, where, &value) && path_of(r, value, full, found);
}

static bool choice(reader *r, json object, const char *key, const char *where, const char *const *names, int count,
                   int *found) {
  json value;
  char full[160], *text = r->text; /* the string is not kept */
  if (!member(r, object, key, where, &value)) return false;
  snprintf(full, sizeof full, "%s.%s", where, key);
  if (json_text(value, text))
    for (*found = 0; *found < count; ++*found)
      if (strcmp(names[*found], text) == 0) return true;
  return bad(r, full, "is not known");
}

static bool real_member(const reader *r, json object, const char *key, const char *where, double *found) {
  json value;
  char full[160];
  if (!member(r, object, key, where, &value)) return false;
  snprintf(full, sizeof full, "%s%s%s", where, *where ? "." : "", key);
  return json_real(value, found) || bad(r, full, "is no finite number");
}

static bool fraction_member(const reader *r, json object, const char *where, double *found) {
  if (!real_member(r, object, "tolerance", where, found)) return false;
  return (*found > 0 && *found <= 1) || bad(r, *where ? where : "it", "has a tolerance that is no fraction");
}

static size_t count_of(json array) {
  const char *cursor = NULL;
  json item;
  size_t count = 0;
  while (json_next(array, &cursor, &item)) count++;
  return count;
}

/* A list of 1 to `most` (or 0 too), and room for as many `size` bytes each. */
static bool list_member(const reader *r, json object, const char *key, const char *where, size_t least, size_t most,
                        size_t size, json *list, void **room, size_t *count) {
  char full[160];
  if (!member(r, object, key, where, list)) return false;
  snprintf(full, sizeof full, "%s%s%s", where, *where ? "." : "", key);
  *count = count_of(*list);
  if (json_kind(*list) != '[' || *count < least || *count > most) {
    *count = 0;
    return bad(r, full, "is no list, is empty, or is too long");
  }
  *room = calloc(*count ? *count : 1, size);
  if (*room) return true;
  *count = 0;
  return edge_refuse(r->message, "out of memory");
}

/* -- tensors ----------------------------------------------------------------------------------------------------------
 */

static bool shape_of(const reader *r, json list, const char *where, edge_spec *spec) {
  const char *cursor = NULL;
  json size;
  if (json_kind(list) != '[' || count_of(list) > EDGE_RANK) return bad(r, where, "shape is no list of up to 16 sizes");
  for (spec->rank = 0; json_next(list, &cursor, &size); spec->rank++) {
    int64_t *side = &spec->shape[spec->rank];
    *side = -1;
    if (json_kind(size) == '"') continue;
    if (!json_whole(size, side) || *side < 1) return bad(r, where, "shape holds what is no size");
  }
  return true;
}

static bool spec_of(reader *r, json object, const char *where, edge_spec *spec) {
  json shape;
  return text_member(r, object, "name", where, &spec->name) &&
         choice(r, object, "dtype", where, edge_dtypes, EDGE_DTYPES, &spec->dtype) &&
         member(r, object, "shape", where, &shape) && shape_of(r, shape, where, spec);
}

static bool raw_of(reader *r, json object, const char *where, edge_raw *raw) {
  if (!spec_of(r, object, where, &raw->spec) || !path_member(r, object, "path", where, &raw->path)) return false;
  uint64_t count = 1, most = (uint64_t)1 << 40;
  for (size_t axis = 0; axis < raw->spec.rank; axis++) {
    int64_t side = raw->spec.shape[axis];
    if (side < 0) return bad(r, where, "shape has a free size");
    if ((uint64_t)side > most / count) return bad(r, where, "shape is too large");
    count *= (uint64_t)side;
  }
  uint64_t bytes = count * edge_item_bytes[raw->spec.dtype];
  if (bytes > SIZE_MAX / 2) return bad(r, where, "shape is too large");
  raw->count = (size_t)count;
  raw->bytes = (size_t)bytes;
  return true;
}

static bool raw_member(reader *r, json object, const char *key, const char *where, edge_raw *raw) {
  json value;
  char full[160];
  snprintf(full, sizeof full, "%s.%s", where, key);
  return member(r, object, key, where, &value) && raw_of(r, value, full, raw);
}

static bool raws_member(reader *r, json object, const char *key, const char *where, size_t least, edge_raw **raws,
                        size_t *count) {
  json list, item;
  const char *cursor = NULL;
  char full[160];
  void *room = NULL;
  bool listed = list_member(r, object, key, where, least, MOST_TENSORS, sizeof **raws, &list, &room, count);
  *raws = room;
  snprintf(full, sizeof full, "%s.%s", where, key);
  for (size_t index = 0; listed && json_next(list, &cursor, &item); index++)
    if (!raw_of(r, item, full, &(*raws)[index])) return false;
  return listed;
}

/* Whether a raw tensor has name, dtype and sizes of an input or output. */
static bool fits(const edge_spec *own, const edge_spec *spec) {
  if (strcmp(own->name, spec->name) != 0 || own->dtype != spec->dtype || own->rank != spec->rank) return false;
  for (size_t axis = 0; axis < spec->rank; axis++)
    if (spec->shape[axis] >= 0 && spec->shape[axis] != own->shape[axis]) return false;
  return true;
}

static bool all_fit(const reader *r, const char *where, const edge_raw *raws, size_t count, const edge_port *ports,
                    size_t wanted) {
  if (count != wanted) return bad(r, where, "are not as many as the model has");
  for (size_t index = 0; index < count; index++)
    if (!fits(&raws[index].spec, &ports[index].spec))
      return bad(r, where, "have not names, dtypes and shapes of the model");
  return true;
}

/* -- preprocessing ----------------------------------------------------------------------------------------------------
 */

static bool size_member(const reader *r, json object, const char *where, size_t size[2]) {
  json list, side;
  const char *cursor = NULL;
  int64_t number;
  size_t count = 0;
  if (!member(r, object, "size", where, &list)) return false;
  while (json_next(list, &cursor, &side)) {
    if (count == 2 || !json_whole(side, &number) || number < 1 || number > INT32_MAX)
      return bad(r, where, "size is not height and width");
    size[count++] = (size_t)number;
  }
  return count == 2 || bad(r, where, "size is not height and width");
}

static bool channels_member(const reader *r, json object, const char *key, const char *where, size_t channels,
                            double *numbers) {
  json list, item;
  const char *cursor = NULL;
  char full[160];
  if (!member(r, object, key, where, &list)) return false;
  snprintf(full, sizeof full, "%s.%s", where, key);
  if (json_kind(list) != '[' || count_of(list) != channels)
    return bad(r, full, "is no list of a number for each channel");
  for (size_t index = 0; json_next(list, &cursor, &item); index++)
    if (!json_real(item, &numbers[index])) return bad(r, full, "holds what is no finite number");
  return true;
}

static bool steps_of(reader *r, json object, const char *where, edge_steps *steps) {
  if (json_kind(object) != '{') return bad(r, where, "is no object");
  if (!size_member(r, object, where, steps->size) ||
      !choice(r, object, "color", where, colors, EDGE_COLORS, &steps->color) ||
      !choice(r, object, "resize", where, resizes, EDGE_RESIZES, &steps->resize) ||
      !choice(r, object, "interpolation", where, interpolations, EDGE_INTERPOLATIONS, &steps->interpolation) ||
      !real_member(r, object, "scale", where, &steps->scale))
    return false;
  steps->channels = steps->color == EDGE_GRAY ? 1 : 3;
  if (!channels_member(r, object, "mean", where, steps->channels, steps->mean) ||
      !channels_member(r, object, "std", where, steps->channels, steps->std))
    return false;
  for (size_t channel = 0; channel < steps->channels; channel++)
    if (steps->std[channel] == 0) return bad(r, where, "std is 0");
  return steps->scale != 0 || bad(r, where, "scale is 0");
}

/* The shape of one image that was prepared in a size. */
static void laid(const edge_steps *steps, const size_t size[2], int64_t shape[4]) {
  size_t first = steps->layout == EDGE_NHWC ? 1 : 2;
  shape[0] = 1;
  shape[first] = (int64_t)size[0];
  shape[first + 1] = (int64_t)size[1];
  shape[steps->layout == EDGE_NHWC ? 3 : 1] = (int64_t)steps->channels;
}

static bool image_input(reader *r, json object, const char *where, edge_port *port) {
  json steps, layout;
  if (!member(r, object, "preprocessing", where, &steps) || !member(r, object, "layout", where, &layout)) return false;
  port->takes_image = json_kind(steps) != 'n';
  if (json_kind(layout) != 'n' && !choice(r, object, "layout", where, layouts, EDGE_LAYOUTS, &port->steps.layout))
    return false;
  if (!port->takes_image) return true;
  int64_t shape[4];
  char full[160];
  snprintf(full, sizeof full, "%s.preprocessing", where);
  if (json_kind(layout) == 'n') return bad(r, full, "needs a layout");
  if (!steps_of(r, steps, full, &port->steps)) return false;
  if (port->spec.dtype != EDGE_FLOAT32 || port->spec.rank != 4) return bad(r, full, "is of no image of float32");
  laid(&port->steps, port->steps.size, shape);
  for (size_t axis = 1; axis < 4; axis++)
    if (port->spec.shape[axis] >= 0 && port->spec.shape[axis] != shape[axis])
      return bad(r, full, "has not the size and channels of the input");
  return true;
}

/* -- the model's side -------------------------------------------------------------------------------------------------
 */

static bool output_of(reader *r, json object, const char *where, edge_port *port) {
  json labels;
  int kind;
  if (!choice(r, object, "kind", where, kinds, (int)(sizeof kinds / sizeof *kinds), &kind)) return false;
  if (!member(r, object, "labels", where, &labels)) return false;
  return json_kind(labels) == 'n' || path_of(r, labels, "outputs.labels", &port->labels);
}

static bool ports_member(reader *r, json document, const char *key, edge_port **ports, size_t *count) {
  json list, item;
  const char *cursor = NULL;
  void *room = NULL;
  bool outputs = strcmp(key, "outputs") == 0;
  bool listed = list_member(r, document, key, "", 1, MOST_TENSORS, sizeof **ports, &list, &room, count);
  *ports = room;
  for (size_t index = 0; listed && json_next(list, &cursor, &item); index++) {
    edge_port *port = &(*ports)[index];
    if (!spec_of(r, item, key, &port->spec)) return false;
    if (!(outputs ? output_of : image_input)(r, item, key, port)) return false;
    for (size_t other = 0; other < index; other++)
      if (strcmp((*ports)[other].spec.name, port->spec.name) == 0) return bad(r, key, "has a name twice");
  }
  return listed;
}

/* -- files ------------------------------------------------------------------------------------------------------------
 */

static bool in_path(unsigned char c, bool first) {
  bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  return word || (!first && c && strchr(".+@=-", c));
}

bool edge_is_path(const char *text, size_t length) {
  if (!length || length > LONGEST_PATH || text[length - 1] == '/') return false;
  bool first = true;
  for (size_t index = 0; index < length; index++) {
    bool slash = text[index] == '/' && !first;
    if (!slash && !in_path((unsigned char)text[index], first)) return false;
    first = slash;
  }
  return true;
}

static bool file_of(reader *r, json object, edge_file *file) {
  json bytes, digest;
  int64_t size;
  if (!path_member(r, object, "path", "files", &file->path)) return false;
  if (!choice(r, object, "role", "files", roles, EDGE_ROLES, &file->role)) return false;
  if (!member(r, object, "size_bytes", "files", &bytes) || !member(r, object, "sha256", "files", &digest)) return false;
  if (!json_whole(bytes, &size) || size < 0) return bad(r, "files.size_bytes", "is no number of bytes");
  file->bytes = (uint64_t)size;
  bool whole = digest.end - digest.at == 66 && *digest.at == '"' && strspn(digest.at + 1, "0123456789abcdef") == 64;
  if (!whole) return bad(r, "files.sha256", "is no digest of 64 hexadecimal digits");
  memcpy(file->sha256, digest.at + 1, 64);
  return true;
}

static char *lower_of(const char *path) {
  size_t length = strlen(path);
  char *lower = malloc(length + 1);
  for (size_t index = 0; lower && index <= length; index++)
    lower[index] = (char)(path[index] >= 'A' && path[index] <= 'Z' ? path[index] | 0x20 : path[index]);
  return lower;
}

static int by_path(const void *a, const void *b) {
  return strcmp(((const edge_file *)a)->path, ((const edge_file *)b)->path);
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* File systems that take A for a must not see two files in one. */
static bool check_paths(const reader *r, char **lower, size_t count) {
  qsort(lower, count, sizeof *lower, by_text);
  for (size_t index = 0; index < count; index++) {
    if (strcmp(lower[index], EDGE_MANIFEST) == 0) return bad(r, "files", "lists " EDGE_MANIFEST " itself");
    if (index && strcmp(lower[index], lower[index - 1]) == 0) return bad(r, "files", "lists one twice");
    char folder[LONGEST_PATH + 1], *key = folder;
    strcpy(folder, lower[index]); /* no longer: it is a path */
    for (char *slash = strrchr(folder, '/'); slash; slash = strrchr(folder, '/')) {
      *slash = 0;
      if (bsearch(&key, lower, count, sizeof *lower, by_text)) return bad(r, "files", "has one that lies in another");
    }
  }
  return true;
}

static bool files_member(reader *r, json document) {
  edge_manifest *m = r->into;
  json list, item;
  const char *cursor = NULL;
  void *room = NULL;
  bool fine = list_member(r, document, "files", "", 1, MOST_FILES, sizeof *m->files, &list, &room, &m->n_files);
  m->files = room;
  for (size_t index = 0; fine && json_next(list, &cursor, &item); index++) fine = file_of(r, item, &m->files[index]);
  char **lower = fine ? calloc(m->n_files, sizeof *lower) : NULL;
  if (fine && !lower) return edge_refuse(r->message, "out of memory");
  for (size_t index = 0; fine && index < m->n_files; index++) {
    lower[index] = m->files[index].lower = lower_of(m->files[index].path);
    if (!lower[index]) fine = edge_refuse(r->message, "out of memory");
  }
  fine = fine && check_paths(r, lower, m->n_files);
  free(lower);
  if (fine) qsort(m->files, m->n_files, sizeof *m->files, by_path);
  return fine;
}

const edge_file *edge_find_file(const edge_manifest *manifest, const char *path, size_t length) {
  size_t low = 0, high = manifest->n_files;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    const char *own = manifest->files[middle].path;
    int order = strncmp(own, path, length);
    if (!order) order = own[length] ? 1 : 0;
    if (!order) return &manifest->files[middle];
    if (order < 0) low = middle + 1;
    if (order > 0) high = middle;
  }
  return NULL;
}

/* -- what one names, another has --------------------------------------------------------------------------------------
 */

static bool has_role(const reader *r, const char *where, const char *path, int role, const edge_file **found) {
  char what[300];
  *found = edge_find_file(r->into, path, strlen(path));
  if (*found && (*found)->role == role) return true;
  snprintf(what, sizeof what, "'%.200s' is none of the files with the role %s", path, roles[role]);
  return bad(r, where, what);
}

static bool are_listed(const reader *r, const char *where, const edge_raw *raws, size_t count) {
  const edge_file *file;
  for (size_t index = 0; index < count; index++) {
    if (!has_role(r, where, raws[index].path, EDGE_GOLDEN_ROLE, &file)) return false;
    if (file->bytes != raws[index].bytes) return bad(r, where, "has a file without the bytes of its shape");
  }
  return true;
}

/* The model is a file, or a folder of files; all of them have its role. */
static bool check_model(const reader *r) {
  const edge_manifest *m = r->into;
  size_t length = strlen(m->model_file), count = 0;
  for (size_t index = 0; index < m->n_files; index++) {
    const edge_file *file = &m->files[index];
    if (strncmp(file->path, m->model_file, length) != 0 || (file->path[length] && file->path[length] != '/')) continue;
    if (file->role != EDGE_MODEL_ROLE) return bad(r, "model_file", "holds a file with another role than model");
    count++;
  }
  return count || bad(r, "model_file", "is none of the files with the role model");
}

static bool check_pair(const reader *r, const char *where, const edge_pair *pair, const edge_port *port) {
  const edge_spec *pixels = &pair->pixels.spec, *prepared = &pair->prepared.spec;
  int64_t shape[4];
  laid(&port->steps, pair->size, shape);
  bool fine = pixels->dtype == EDGE_UINT8 && pixels->rank == 3 && pixels->shape[2] == (int64_t)port->steps.channels &&
              prepared->dtype == EDGE_FLOAT32 && prepared->rank == 4;
  for (size_t axis = 0; fine && axis < 4; axis++) fine = prepared->shape[axis] == shape[axis];
  if (!fine) return bad(r, where, "has not the dtypes and shapes of the model's input");
  return are_listed(r, where, &pair->pixels, 1) && are_listed(r, where, &pair->prepared, 1);
}

static bool pair_of(reader *r, json object, const char *where, edge_pair *pair) {
  return raw_member(r, object, "pixels", where, &pair->pixels) &&
         raw_member(r, object, "prepared", where, &pair->prepared);
}

static bool image_outputs_fit(const reader *r) {
  static const char where[] = "golden.image.outputs";
  const edge_manifest *m = r->into;
  if (m->n_inputs != 1) return bad(r, where, "are of a model with several inputs");
  return are_listed(r, where, m->image_outputs, m->n_image_outputs) &&
         all_fit(r, where, m->image_outputs, m->n_image_outputs, m->outputs, m->n_outputs);
}

static bool image_of(reader *r, json object) {
  static const char where[] = "golden.image", apart[] = "golden.image.resized";
  edge_manifest *m = r->into;
  const edge_port *port = &m->inputs[0];
  json resized, level;
  int64_t number;
  const char *png;
  const edge_file *file;
  if (json_kind(object) != '{') return bad(r, where, "is no object");
  if (!port->takes_image) return bad(r, where, "needs preprocessing of the first input");
  memcpy(m->image.size, port->steps.size, sizeof m->image.size);
  if (!fraction_member(r, object, where, &m->image_tolerance) || !pair_of(r, object, where, &m->image) ||
      !path_member(r, object, "png", where, &png) || !has_role(r, where, png, EDGE_GOLDEN_ROLE, &file) ||
      !member(r, object, "png_tolerance", where, &level) ||
      !raws_member(r, object, "outputs", where, 0, &m->image_outputs, &m->n_image_outputs) ||
      !member(r, object, "resized", where, &resized) || !check_pair(r, where, &m->image, port))
    return false;
  if (!json_whole(level, &number) || number < 0) return bad(r, where, "png_tolerance is no number of levels");
  for (size_t axis = 0; axis < 2; axis++)
    if (m->image.pixels.spec.shape[axis] != (int64_t)m->image.size[axis])
      return bad(r, where, "pixels have not the size of the input");
  if (m->n_image_outputs && !image_outputs_fit(r)) return false;
  m->has_resized = json_kind(resized) != 'n';
  if (!m->has_resized) return true;
  return (json_kind(resized) == '{' || bad(r, apart, "is no object")) &&
         size_member(r, resized, apart, m->resized.size) && pair_of(r, resized, apart, &m->resized) &&
         check_pair(r, apart, &m->resized, port);
}

static bool golden_member(reader *r, json document) {
  edge_manifest *m = r->into;
  json golden, image;
  size_t inputs, outputs;
  if (!member(r, document, "golden", "", &golden)) return false;
  if (json_kind(golden) != '{') return bad(r, "golden", "is no object");
  if (!raws_member(r, golden, "inputs", "golden", 1, &m->golden_inputs, &inputs) ||
      !raws_member(r, golden, "outputs", "golden", 1, &m->golden_outputs, &outputs) ||
      !all_fit(r, "golden.inputs", m->golden_inputs, inputs, m->inputs, m->n_inputs) ||
      !all_fit(r, "golden.outputs", m->golden_outputs, outputs, m->outputs, m->n_outputs) ||
      !are_listed(r, "golden.inputs", m->golden_inputs, inputs) ||
      !are_listed(r, "golden.outputs", m->golden_outputs, outputs) || !member(r, golden, "image", "golden", &image))
    return false;
  m->has_image = json_kind(image) != 'n';
  return !m->has_image || image_of(r, image);
}

static bool check_names(reader *r, json document) {
  const edge_manifest *m = r->into;
  const edge_file *file;
  const char *runner;
  json value;
  for (size_t index = 0; index < m->n_outputs; index++)
    if (m->outputs[index].labels && !has_role(r, "labels", m->outputs[index].labels, EDGE_LABELS_ROLE, &file))
      return false;
  if (!member(r, document, "runner", "", &value)) return false;
  if (json_kind(value) == 'n') return true;
  return path_of(r, value, "runner", &runner) && has_role(r, "runner", runner, EDGE_CODE_ROLE, &file);
}

static bool document_of(reader *r, json document) {
  edge_manifest *m = r->into;
  json value;
  int64_t version;
  if (json_kind(document) != '{') return bad(r, "it", "is no JSON object");
  if (json_member(document, "kind", &value) != 1 || !json_text(value, r->text) || strcmp(r->text, KIND) != 0)
    return bad(r, "kind", "is not " KIND);
  if (json_member(document, "version", &value) != 1 || !json_whole(value, &version) || version != VERSION)
    return bad(r, "version", "is not 2");
  return files_member(r, document) && text_member(r, document, "model", "", &m->model) &&
         path_member(r, document, "model_file", "", &m->model_file) && check_model(r) &&
         text_member(r, document, "target", "", &m->target) &&
         text_member(r, document, "precision", "", &m->precision) && fraction_member(r, document, "", &m->tolerance) &&
         ports_member(r, document, "inputs", &m->inputs, &m->n_inputs) &&
         ports_member(r, document, "outputs", &m->outputs, &m->n_outputs) && golden_member(r, document) &&
         check_names(r, document);
}

bool edge_read_manifest(edge_manifest *into, const char *text, size_t bytes, char *message) {
  json document;
  memset(into, 0, sizeof *into);
  const char *problem = json_check(text, bytes, &document);
  if (problem) return edge_refuse(message, EDGE_MANIFEST " is no JSON: %s; make the bundle again", problem);
  into->texts = malloc(bytes + 1); /* no string in it is longer than its JSON, quotes included */
  if (!into->texts) return edge_refuse(message, "out of memory");
  reader r = {into, into->texts, message};
  return document_of(&r, document);
}

void edge_free_manifest(edge_manifest *manifest) {
  for (size_t index = 0; manifest->files && index < manifest->n_files; index++) free(manifest->files[index].lower);
  free(manifest->files);
  free(manifest->inputs);
  free(manifest->outputs);
  free(manifest->golden_inputs);
  free(manifest->golden_outputs);
  free(manifest->image_outputs);
  free(manifest->texts);
  memset(manifest, 0, sizeof *manifest);
}
