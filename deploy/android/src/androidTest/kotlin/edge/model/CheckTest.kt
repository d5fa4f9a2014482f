package edge.model

import android.content.Context
import android.content.pm.PackageManager
import androidx.test.core.app.ActivityScenario
import androidx.test.ext.junit.runners.AndroidJUnit4
import androidx.test.platform.app.InstrumentationRegistry
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith

/** What has to hold on a phone: `gradle connectedAndroidTest`. */
@RunWith(AndroidJUnit4::class)
class CheckTest {
    private val context: Context = InstrumentationRegistry.getInstrumentation().targetContext

    @Test
    fun bundleIsWholeAndAnswersAsItMust() {
        val report = checkEdgeModel(context)
        assertTrue(report.line, report.ok)
        if (report.imageError != null) assertTrue(report.line, report.pngError != null)
    }

    @Test
    fun goldenImageHasALabel() {
        openEdgeModel(context).use { model ->
            val kind = model.manifest.outputs.first().kind
            val image = model.manifest.golden.image
            if (image == null || kind !in listOf("logits", "probabilities")) return
            val found = model.classify(decodeImage(AssetFiles(context.assets).open(image.png).readBytes()))
            assertEquals(1.0, found.sumOf { it.score }, 1e-6)
        }
    }

    @Test
    fun aFolderIsABundleToo() {
        val folder = File(context.cacheDir, ASSETS)
        val assets = AssetFiles(context.assets)
        for (path in assets.list()) {
            val file = File(folder, path)
            file.parentFile?.mkdirs()
            assets.open(path).use { from -> file.outputStream().use { from.copyTo(it) } }
        }
        openEdgeModel(context, FolderFiles(folder)).use { assertTrue(it.report.line, it.report.ok) }
        File(folder, "more.txt").writeText("this was not here")
        val error = assertThrows(BundleException::class.java) { openEdgeModel(context, FolderFiles(folder)) }
        assertTrue(error.message, "more.txt" in error.message.orEmpty())
        folder.deleteRecursively()
    }

    @Test
    fun activityShowsTheVerdict() {
        ActivityScenario.launch(CheckActivity::class.java).use { scenario ->
            var shown = CheckActivity.CHECKING
            val end = System.nanoTime() + PATIENCE
            while (shown == CheckActivity.CHECKING && System.nanoTime() < end) {
                Thread.sleep(50)
                scenario.onActivity { shown = it.shown.text.toString() }
            }
            assertTrue(shown, shown.startsWith("ok: "))
        }
    }

    @Test
    fun nothingLoadsOnnxRuntimeBeforeTheApp() {
        val own = context.packageManager.getPackageInfo(context.packageName, PackageManager.GET_PROVIDERS)
        val names = own.providers.orEmpty().map { it.name }
        assertTrue("$names", names.none { it.startsWith("ai.onnxruntime.") })
    }

    private companion object {
        const val PATIENCE = 60_000_000_000
    }
}
