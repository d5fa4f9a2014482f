package edge.model

import android.system.Os
import org.robolectric.annotation.Implementation
import org.robolectric.annotation.Implements

/** Environment variables of Android, which Robolectric leaves out: they are remembered here. */
@Implements(Os::class)
class Environment {
    companion object {
        private val variables = HashMap<String, String>()

        @JvmStatic
        @Implementation
        fun setenv(name: String, value: String, overwrite: Boolean) {
            if (overwrite || name !in variables) variables[name] = value
        }

        @JvmStatic
        @Implementation
        fun getenv(name: String): String? = variables[name]
    }
}
