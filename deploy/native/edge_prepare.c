/* An image of bytes as a model's input, the same in every language: in double precision, rounded once at the end. */
#include "edge_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LARGEST_SIDE = 1 << 16 };

/* For one side: which pixels count for each wanted one, and how much. */
typedef struct {
  size_t *first, *count;
  double *weights; /* `widest` for each */
  size_t widest;
} side;

static double larger(double a, double b) { return a > b ? a : b; }

/* The weights of the pixels around a centre, which sum up to one. */
static void weigh(const edge_steps *steps, side *found, size_t index, size_t whole, double centre, double step) {
  double *weights = found->weights + index * found->widest, sum = 0, width = larger(step, 1);
  if (steps->interpolation == EDGE_NEAREST) {
    double at = floor(centre);
    found->first[index] = at<0 ? 0 : at>(double)(whole - 1) ? whole - 1 : (size_t)at;
    found->count[index] = 1;
    weights[0] = 1;
    return;
  }
  double from = larger(floor(centre - width - 0.5), 0);
  size_t first = from > (double)(whole - 1) ? whole - 1 : (size_t)from, count = 0;
  for (; count < found->widest && first + count < whole; count++) {
    weights[count] = larger(0, 1 - fabs((double)(first + count) + 0.5 - centre) / width);
    sum += weights[count];
  }
  for (size_t i = 0; i < count; i++) weights[i] /= sum;
  found->first[index] = first;
  found->count[index] = count;
}

/* `part` of `whole` pixels, in their middle, become `wanted`. */
static bool weigh_all(const edge_steps *steps, side *found, size_t whole, double part, size_t wanted) {
  double step = part / (double)wanted;
  found->widest = (size_t)(2 * larger(step, 1)) + 3;
  found->first = calloc(wanted, sizeof *found->first);
  found->count = calloc(wanted, sizeof *found->count);
  found->weights = calloc(wanted * found->widest, sizeof *found->weights);
  if (!found->first || !found->count || !found->weights) return false;
  for (size_t index = 0; index < wanted; index++)
    weigh(steps, found, index, whole, ((double)whole - part) / 2 + ((double)index + 0.5) * step, step);
  return true;
}

static void release(side *found) {
  free(found->first);
  free(found->count);
  free(found->weights);
}

/* One byte of a pixel in the colour that is wanted. */
static double channel_of(const edge_steps *steps, const uint8_t *pixel, size_t channels, size_t channel) {
  if (channels < 3) return pixel[0];
  if (steps->color != EDGE_GRAY) return pixel[steps->color == EDGE_BGR ? 2 - channel : channel];
  return (19595u * pixel[0] + 38470u * pixel[1] + 7471u * pixel[2] + 32768u) >> 16;
}

typedef struct {
  const uint8_t *pixels;
  size_t width, channels;
} picture;

/* One row of the result, as doubles of the picture's width: rows of it, weighed. */
static void rows_of(const edge_steps *steps, const picture *from, const side *rows, size_t index, double *row) {
  const double *weights = rows->weights + index * rows->widest;
  memset(row, 0, from->width * steps->channels * sizeof *row);
  for (size_t i = 0; i < rows->count[index]; i++) {
    const uint8_t *pixel = from->pixels + (rows->first[index] + i) * from->width * from->channels;
    for (size_t x = 0; x < from->width; x++, pixel += from->channels)
      for (size_t c = 0; c < steps->channels; c++)
        row[x * steps->channels + c] += weights[i] * channel_of(steps, pixel, from->channels, c);
  }
}

static void columns_of(const edge_steps *steps, const size_t size[2], const side *columns, size_t y, const double *row,
                       float *into) {
  size_t channels = steps->channels;
  for (size_t x = 0; x < size[1]; x++)
    for (size_t c = 0; c < channels; c++) {
      double sum = 0;
      for (size_t i = 0; i < columns->count[x]; i++)
        sum += columns->weights[x * columns->widest + i] * row[(columns->first[x] + i) * channels + c];
      size_t place = steps->layout == EDGE_NHWC ? (y * size[1] + x) * channels + c : (c * size[0] + y) * size[1] + x;
      into[place] = (float)((sum * steps->scale - steps->mean[c]) / steps->std[c]);
    }
}

float *edge_prepare(const edge_steps *steps, const size_t size[2], const uint8_t *pixels, size_t height, size_t width,
                    size_t channels, char *message) {
  bool sides = height && width && height <= LARGEST_SIDE && width <= LARGEST_SIDE;
  if (!sides || size[0] > LARGEST_SIDE || size[1] > LARGEST_SIDE || (channels != 1 && channels != 3 && channels != 4)) {
    edge_refuse(message, "an image has 1, 3 or 4 channels, and at most %d pixels in height and width", LARGEST_SIDE);
    return NULL;
  }
  if (steps->resize == EDGE_NONE && (height != size[0] || width != size[1])) {
    edge_refuse(message, "the image is %zu x %zu, the model takes %zu x %zu", height, width, size[0], size[1]);
    return NULL;
  }
  double part[2] = {(double)height, (double)width};
  if (steps->resize == EDGE_CENTRE_CROP) {
    double tall = part[0] / (double)size[0], wide = part[1] / (double)size[1], factor = tall < wide ? tall : wide;
    part[0] = (double)size[0] * factor;
    part[1] = (double)size[1] * factor;
  }
  side rows = {0}, columns = {0};
  picture from = {pixels, width, channels};
  bool fine = weigh_all(steps, &rows, height, part[0], size[0]) && weigh_all(steps, &columns, width, part[1], size[1]);
  double *row = fine ? calloc(width * steps->channels, sizeof *row) : NULL;
  float *into =
      row && size[0] <= SIZE_MAX / 32 / size[1] ? calloc(size[0] * size[1] * steps->channels, sizeof *into) : NULL;
  for (size_t y = 0; into && y < size[0]; y++) {
    rows_of(steps, &from, &rows, y, row);
    columns_of(steps, size, &columns, y, row, into);
  }
  free(row);
  release(&rows);
  release(&columns);
  if (!into) edge_refuse(message, "out of memory for an image");
  return into;
}
