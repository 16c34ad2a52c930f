package edgekit.camerax

import android.graphics.Bitmap
import androidx.camera.core.ImageAnalysis
import androidx.camera.core.ImageProxy
import edgekit.Frame
import edgekit.Orientation
import java.nio.ByteBuffer
import java.util.concurrent.Executor
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.flow.callbackFlow

/**
 * Frames of an analysis of `OUTPUT_IMAGE_FORMAT_RGBA_8888`, for `EdgeModel.results`; the newest frame wins. Each is copied once, so that the
 * camera has its buffer back at once. [mirrored] for the front camera, whose preview is a mirror.
 */
fun ImageAnalysis.frames(executor: Executor, mirrored: Boolean): Flow<Frame> = callbackFlow {
    setAnalyzer(executor) { image ->
        try {
            trySend(image.toFrame(mirrored))
        } catch (problem: RuntimeException) { // thrown where the frames are taken
            close(problem)
        } finally {
            image.close()
        }
    }
    awaitClose { clearAnalyzer() }
}.buffer(Channel.CONFLATED)

/**
 * The frame of an image of `OUTPUT_IMAGE_FORMAT_RGBA_8888`, turned upright by its rotation. The image stays open.
 *
 * Throws [edgekit.EdgeKitException.Input]: an image of another format, or without pixels.
 */
fun ImageProxy.toFrame(mirrored: Boolean): Frame = frameOf(
    planes.map { Plane(it.buffer, it.rowStride, it.pixelStride) }, width, height, imageInfo.rotationDegrees, mirrored, imageInfo.timestamp,
)

/** A picture of any configuration, upright as it is unless [orientation] says otherwise (EXIF). */
fun Bitmap.toFrame(orientation: Orientation = Orientation.UP): Frame {
    val upright = if (config == Bitmap.Config.ARGB_8888) this else copy(Bitmap.Config.ARGB_8888, false)
    val bytes = ByteArray(upright.rowBytes * upright.height)
    upright.copyPixelsToBuffer(ByteBuffer.wrap(bytes))
    return Frame(bytes, upright.width, upright.height, Frame.Format.RGBA, upright.rowBytes, orientation)
}
