package edge.model

import java.nio.ByteBuffer
import java.nio.CharBuffer
import java.nio.charset.CharacterCodingException

/** The bundle is not what it must be, or its model does not answer as it must; one line that names the culprit. */
class BundleException(message: String) : Exception(oneLine(message))

private const val LONGEST_LINE = 500

/** Printable characters in one line. */
internal fun oneLine(text: String): String {
    val words = text.split(Regex("\\s+")).joinToString(" ").trim()
    val shown = words.map { if (it.isISOControl() || it.isSurrogate() || Character.getType(it) == FORMAT) '?' else it }
    return shown.joinToString("").take(LONGEST_LINE)
}

private const val FORMAT = Character.FORMAT.toInt()

internal class JsonError(message: String) : Exception(message)

/**
 * JSON as RFC 8259 has it and no more: no NaN, no comments, no key twice, nothing after the document.
 *
 * Objects become maps, lists lists, whole numbers Long, other numbers Double. (Android's own reader takes more, which
 * others would read as something else; and a plain JVM has none.)
 */
internal class Json private constructor(private val text: CharSequence) {
    private var at = 0

    private fun document(): Any? {
        val found = value(0)
        skip()
        if (at != text.length) fail("something follows its end")
        return found
    }

    private fun fail(why: String): Nothing = throw JsonError("$why, at character $at")

    private fun skip() {
        while (at < text.length && text[at] in " \t\n\r") at++
    }

    private fun take(wanted: Char): Boolean {
        skip()
        if (at >= text.length || text[at] != wanted) return false
        at++
        return true
    }

    private fun value(depth: Int): Any? {
        if (depth > DEEPEST) fail("it is nested too deeply")
        skip()
        return when (if (at < text.length) text[at] else fail("it ends too early")) {
            '{' -> members(depth)
            '[' -> items(depth)
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun members(depth: Int): Map<String, Any?> {
        at++
        val found = LinkedHashMap<String, Any?>()
        if (take('}')) return found
        do {
            skip()
            if (at >= text.length || text[at] != '"') fail("a key was expected")
            val key = string()
            if (!take(':')) fail("a colon was expected")
            if (found.containsKey(key)) fail("a key is there twice")
            found[key] = value(depth + 1)
        } while (take(','))
        if (!take('}')) fail("a comma or } was expected")
        return found
    }

    private fun items(depth: Int): List<Any?> {
        at++
        val found = ArrayList<Any?>()
        if (take(']')) return found
        do found.add(value(depth + 1)) while (take(','))
        if (!take(']')) fail("a comma or ] was expected")
        return found
    }

    private fun string(): String {
        at++
        val found = StringBuilder()
        while (true) {
            val one = if (at < text.length) text[at++] else fail("a text does not end")
            when {
                one == '"' -> return found.toString()
                one == '\\' -> found.append(escaped())
                one < ' ' -> fail("a control character is in a text")
                else -> found.append(one)
            }
        }
    }

    private fun escaped(): Char {
        val one = if (at < text.length) text[at++] else fail("a text does not end")
        return when (one) {
            '"', '\\', '/' -> one
            'b' -> '\b'
            'f' -> '\u000c'
            'n' -> '\n'
            'r' -> '\r'
            't' -> '\t'
            'u' -> code()
            else -> fail("an escape is none")
        }
    }

    private fun code(): Char {
        val digits = if (at + 4 <= text.length) text.substring(at, at + 4) else fail("a text does not end")
        if (!HEX.matches(digits)) fail("an escape is none")
        at += 4
        return digits.toInt(16).toChar()
    }

    private fun <T> word(wanted: String, value: T): T {
        if (!text.startsWith(wanted, at)) fail("it holds something that is no JSON")
        at += wanted.length
        return value
    }

    private fun number(): Any {
        val start = at
        while (at < text.length && (text[at].isLetterOrDigit() || text[at] in "+-.")) at++
        val digits = text.substring(start, at)
        if (!NUMBER.matches(digits)) fail("it holds something that is no JSON")
        val whole = if (digits.any { it in ".eE" }) null else digits.toLongOrNull()
        val found = whole ?: digits.toDouble()
        if (found is Double && found.isInfinite()) fail("a number is too large")
        return found
    }

    companion object {
        private const val DEEPEST = 200
        private val HEX = Regex("[0-9A-Fa-f]{4}")
        private val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")

        /** The document in UTF-8 bytes; throws [JsonError]. */
        fun parse(bytes: ByteArray): Any? {
            val text: CharBuffer = try {
                Charsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes))
            } catch (error: CharacterCodingException) {
                throw JsonError("it is no UTF-8")
            }
            return Json(text).document()
        }

        /** The inverse, on one line; a number that is none becomes text. */
        fun write(value: Any?): String = when (value) {
            null -> "null"
            is Map<*, *> -> value.entries.joinToString(", ", "{", "}") { "${write("${it.key}")}: ${write(it.value)}" }
            is List<*> -> value.joinToString(", ", "[", "]") { write(it) }
            is Double -> if (value.isFinite()) value.toString() else "\"$value\""
            is Number, is Boolean -> value.toString()
            else -> quoted(value.toString())
        }

        private fun quoted(text: String) = text.map {
            if (it == '"' || it == '\\') "\\$it" else if (it < ' ') "\\u%04x".format(it.code) else "$it"
        }.joinToString("", "\"", "\"")
    }
}
