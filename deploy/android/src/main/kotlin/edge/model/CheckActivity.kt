package edge.model

import android.app.Activity
import android.os.Build
import android.os.Bundle
import android.util.Log
import android.widget.ScrollView
import android.widget.TextView
import java.util.concurrent.Executors

/** Shows on this phone what a check of the bundle finds, and logs it: `adb logcat -s edge_model`. */
class CheckActivity : Activity() {
    private val worker = Executors.newSingleThreadExecutor()
    internal lateinit var shown: TextView
        private set

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        shown = TextView(this).apply {
            val space = (16 * resources.displayMetrics.density).toInt()
            setPadding(space, space, space, space)
            setTextIsSelectable(true)
            text = CHECKING
        }
        setContentView(ScrollView(this).apply { addView(shown); fitsSystemWindows = true })
        worker.execute {
            val said = said()
            runOnUiThread { shown.text = said }
        }
    }

    private fun said(): String {
        val report = try {
            checkEdgeModel(this)
        } catch (error: Exception) {
            Report(null, "$error")
        }
        Log.i(TAG, report.line)
        Log.i(TAG, report.toJson())
        val system = "Android ${Build.VERSION.RELEASE}, ${Build.SUPPORTED_ABIS.firstOrNull()}"
        val phone = "${Build.MANUFACTURER} ${Build.MODEL}, $system"
        return "${report.line}\n\n${report.toJson()}\n\n$phone"
    }

    override fun onDestroy() {
        worker.shutdown()
        super.onDestroy()
    }

    internal companion object {
        const val CHECKING = "Checking…"
        private const val TAG = "edge_model"
    }
}
