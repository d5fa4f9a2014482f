/* JSON without memory of its own: the text is proved once, then values are found in it by scanning. */
#include "edge_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEEPEST = 128 };

typedef struct {
  const unsigned char *at, *end;
} scan;

static void skip_space(scan *s) {
  while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r')) s->at++;
}

static bool is_digit(int c) { return c >= '0' && c <= '9'; }

static int hex(int c) {
  if (is_digit(c)) return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Bytes of the UTF-8 sequence that begins here (RFC 3629); 0: it is none. */
static size_t utf8(const unsigned char *at, const unsigned char *end) {
  unsigned first = at[0], low = 0x80, high = 0xBF;
  size_t length = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
  if (first == 0xE0) low = 0xA0;
  if (first == 0xED) high = 0x9F;
  if (first == 0xF0) low = 0x90;
  if (first == 0xF4) high = 0x8F;
  if (length > (size_t)(end - at)) return 0;
  for (size_t i = 1; i < length; i++, low = 0x80, high = 0xBF)
    if (at[i] < low || at[i] > high) return 0;
  return length;
}

static bool check_string(scan *s) {
  for (s->at++; s->at < s->end && *s->at != '"';) {
    if (*s->at < 0x20) return false;
    if (*s->at == '\\') {
      if (++s->at == s->end || !memchr("\"\\/bfnrtu", *s->at, 9)) return false;
      if (*s->at++ != 'u') continue;
      for (int i = 0; i < 4; i++, s->at++)
        if (s->at == s->end || hex(*s->at) < 0) return false;
    } else {
      size_t length = utf8(s->at, s->end);
      if (!length) return false;
      s->at += length;
    }
  }
  return s->at < s->end && *s->at++ == '"';
}

static bool digits(scan *s) {
  const unsigned char *from = s->at;
  while (s->at < s->end && is_digit(*s->at)) s->at++;
  return s->at > from;
}

static bool check_number(scan *s) {
  if (*s->at == '-') s->at++;
  if (s->at < s->end && *s->at == '0')
    s->at++;
  else if (!digits(s))
    return false;
  if (s->at < s->end && *s->at == '.') {
    s->at++;
    if (!digits(s)) return false;
  }
  if (s->at < s->end && (*s->at | 0x20) == 'e') {
    s->at++;
    if (s->at < s->end && (*s->at == '+' || *s->at == '-')) s->at++;
    if (!digits(s)) return false;
  }
  return true;
}

static bool check_word(scan *s, const char *word) {
  size_t length = strlen(word);
  if ((size_t)(s->end - s->at) < length || memcmp(s->at, word, length) != 0) return false;
  s->at += length;
  return true;
}

/* A value that holds no others. */
static bool check_scalar(scan *s) {
  switch (*s->at) {
    case '"': return check_string(s);
    case 't': return check_word(s, "true");
    case 'f': return check_word(s, "false");
    case 'n': return check_word(s, "null");
    default: return (*s->at == '-' || is_digit(*s->at)) && check_number(s);
  }
}

static bool check_key(scan *s) {
  skip_space(s);
  if (s->at == s->end || *s->at != '"' || !check_string(s)) return false;
  skip_space(s);
  return s->at < s->end && *s->at++ == ':';
}

/* After a value: commas and closing brackets, until another value is due (1), all is closed (0), or it is no JSON (-1).
 */
static int check_after(scan *s, char *open, size_t *depth) {
  while (*depth) {
    skip_space(s);
    if (s->at == s->end) return -1;
    int c = *s->at++;
    if (c == ',') return open[*depth - 1] == '[' || check_key(s) ? 1 : -1;
    if (c != (open[*depth - 1] == '[' ? ']' : '}')) return -1;
    --*depth;
  }
  return 0;
}

const char *json_check(const char *text, size_t bytes, json *whole) {
  const unsigned char *from = (const unsigned char *)text;
  scan s = {from, from + bytes};
  char open[DEEPEST];
  size_t depth = 0;
  skip_space(&s);
  whole->at = (const char *)s.at;
  for (int more = 1; more;) {
    skip_space(&s);
    if (s.at == s.end) return "it is cut off";
    if (*s.at == '[' || *s.at == '{') {
      char kind = (char)*s.at++;
      if (depth == DEEPEST) return "it is nested too deeply";
      open[depth++] = kind;
      skip_space(&s);
      bool empty = s.at < s.end && *s.at == (kind == '[' ? ']' : '}');
      if (!empty && kind == '{' && !check_key(&s)) return "an object is malformed";
      if (!empty) continue;
    } else if (!check_scalar(&s)) {
      return "a value is malformed";
    }
    more = check_after(&s, open, &depth);
    if (more < 0) return "a list or object is malformed or cut off";
  }
  whole->end = (const char *)s.at;
  skip_space(&s);
  return s.at == s.end ? NULL : "something follows its end";
}

char json_kind(json value) {
  char first = *value.at;
  return first == '-' || is_digit(first) ? '0' : first;
}

/* The rest is of texts that json_check() has proved. */

static const char *after_space(const char *at) { return at + strspn(at, " \t\n\r"); }

static const char *after_string(const char *at) {
  for (at++; *at != '"'; at++)
    if (*at == '\\') at++;
  return at + 1;
}

static const char *after_value(const char *at) {
  size_t depth = 0;
  do {
    if (*at == '"') {
      at = after_string(at);
    } else if (*at == '[' || *at == '{') {
      depth++, at++;
    } else if (*at == ']' || *at == '}') {
      depth--, at++;
    } else if (depth) {
      at += strcspn(at, "\"[]{}");
    } else {
      at += strcspn(at, ",]} \t\n\r");
    }
  } while (depth);
  return at;
}

static void put_utf8(char **into, unsigned code) {
  unsigned char *out = (unsigned char *)*into;
  if (code < 0x80) {
    *out++ = (unsigned char)code;
  } else if (code < 0x800) {
    *out++ = (unsigned char)(0xC0 | code >> 6);
    *out++ = (unsigned char)(0x80 | (code & 0x3F));
  } else {
    if (code < 0x10000) {
      *out++ = (unsigned char)(0xE0 | code >> 12);
    } else {
      *out++ = (unsigned char)(0xF0 | code >> 18);
      *out++ = (unsigned char)(0x80 | (code >> 12 & 0x3F));
    }
    *out++ = (unsigned char)(0x80 | (code >> 6 & 0x3F));
    *out++ = (unsigned char)(0x80 | (code & 0x3F));
  }
  *into = (char *)out;
}

static unsigned four_digits(const char *at) {
  unsigned code = 0;
  for (int i = 0; i < 4; i++) code = code << 4 | (unsigned)hex((unsigned char)at[i]);
  return code;
}

/* What a backslash and what follows it stand for; `at` is moved behind it. 0: nothing that a C string can hold. */
static unsigned escaped(const char **at) {
  const char *from = *at + 1;
  *at = from + 1;
  switch (*from) {
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    case 'u': break;
    default: return (unsigned char)*from;
  }
  unsigned code = four_digits(from + 1);
  *at = from + 5;
  if (code < 0xD800 || code > 0xDFFF) return code;
  if (code > 0xDBFF || (*at)[0] != '\\' || (*at)[1] != 'u') return 0;
  unsigned low = four_digits(*at + 2);
  *at += 6;
  return low >= 0xDC00 && low <= 0xDFFF ? 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00) : 0;
}

bool json_text(json value, char *into) {
  if (*value.at != '"') return false;
  for (const char *at = value.at + 1; *at != '"';) {
    if (*at != '\\') {
      *into++ = *at++;
      continue;
    }
    unsigned code = escaped(&at);
    if (!code) return false;
    put_utf8(&into, code);
  }
  *into = 0;
  return true;
}

/* Whether a string is a key of ASCII, however it is written. */
static bool is_key(const char *at, const char *key) {
  for (at++; *at != '"'; key++) {
    unsigned code = *at == '\\' ? escaped(&at) : (unsigned char)*at++;
    if (!*key || code != (unsigned char)*key) return false;
  }
  return !*key;
}

int json_member(json object, const char *key, json *found) {
  int count = 0;
  if (*object.at != '{') return 0;
  const char *at = after_space(object.at + 1);
  while (*at != '}') {
    bool ours = is_key(at, key);
    at = after_space(after_space(after_string(at)) + 1);
    const char *end = after_value(at);
    if (ours && ++count > 1) return count;
    if (ours) *found = (json){at, end};
    at = after_space(end);
    if (*at == ',') at = after_space(at + 1);
  }
  return count;
}

bool json_next(json array, const char **cursor, json *item) {
  if (*array.at != '[') return false;
  const char *at = after_space(*cursor ? *cursor : array.at + 1);
  if (*at == ',') at = after_space(at + 1);
  if (*at == ']') return false;
  *item = (json){at, after_value(at)};
  *cursor = item->end;
  return true;
}

bool json_whole(json value, int64_t *found) {
  bool negative = *value.at == '-';
  int64_t number = 0;
  if (json_kind(value) != '0') return false;
  for (const char *at = value.at + negative; at < value.end; at++) {
    if (!is_digit(*at) || number > (INT64_MAX - 9) / 10) return false;
    number = number * 10 + (*at - '0');
  }
  *found = negative ? -number : number;
  return true;
}

/* Exact for up to 15 digits and powers of ten up to 22, else within some units in the last place. Not strtod(), which
 * wants the decimal point of the app's locale. */
bool json_real(json value, double *found) {
  if (json_kind(value) != '0') return false;
  const char *at = value.at + (*value.at == '-');
  double number = 0;
  int power = 0, used = 0, exponent = 0;
  bool fraction = false;
  for (; at < value.end && (*at | 0x20) != 'e'; at++) {
    if (*at == '.') {
      fraction = true;
      continue;
    }
    bool counts = used < 18;
    if (counts) number = number * 10 + (*at - '0');
    if (counts && number > 0) used++;
    power += (fraction ? -1 : 0) + !counts;
  }
  bool down = at < value.end && at[1] == '-';
  for (at += at < value.end; at < value.end; at++)
    if (is_digit(*at) && exponent < 100000) exponent = exponent * 10 + (*at - '0');
  power += down ? -exponent : exponent;
  for (int step = 22; number != 0 && isfinite(number) && power; power -= power > 0 ? step : -step) {
    if (step > abs(power)) step = abs(power);
    number = power > 0 ? number * pow(10, step) : number / pow(10, step);
  }
  *found = *value.at == '-' ? -number : number;
  return isfinite(number);
}
