package edge.model

import java.io.ByteArrayInputStream
import java.io.File
import javax.imageio.ImageIO
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** The bundle in this module's assets, by the class that the phone runs, on this machine's JVM. */
class CoreTest {
    private val assets = FolderFiles(File("src/main/assets/edge_model"))

    @Test
    fun bundleIsWholeAndAnswersAsItMust() {
        val report = EdgeModel.check(assets, ::decodePng)
        assertTrue(report.line, report.ok)
    }

    @Test
    fun goldenImageHasALabel() {
        EdgeModel.open(assets, ::decodePng).use { model ->
            val kind = model.manifest.outputs.first().kind
            val image = model.manifest.golden.image
            if (image == null || kind !in listOf("logits", "probabilities")) return
            val found = model.classify(decodePng(assets.open(image.png).readBytes()))
            assertEquals(1.0, found.sumOf { it.score }, 1e-6)
            assertTrue(found.zipWithNext().all { (one, next) -> one.score >= next.score })
        }
    }
}

/** The bytes as they are in the file: getRGB() would convert gray ones by a gamma. */
internal fun decodePng(bytes: ByteArray): Pixels {
    val raster = ImageIO.read(ByteArrayInputStream(bytes)).raster
    val numbers = raster.getPixels(0, 0, raster.width, raster.height, null as IntArray?)
    val own = ByteArray(numbers.size) { numbers[it].toByte() }
    return Pixels(raster.height, raster.width, raster.numBands, own)
}
