package edgekit.camerax

import edgekit.EdgeKitException
import edgekit.Frame
import edgekit.Orientation
import java.nio.ByteBuffer

/** One plane of a camera's image: bytes from row to row and from pixel to pixel. */
internal class Plane(val buffer: ByteBuffer, val rowStride: Int, val pixelStride: Int)

/** A frame with its own copy of the one plane of an RGBA image. [timestamp] is in nanoseconds. */
internal fun frameOf(planes: List<Plane>, width: Int, height: Int, degrees: Int, mirrored: Boolean, timestamp: Long): Frame {
    val plane = planes.singleOrNull()?.takeIf { it.pixelStride == 4 }
        ?: throw EdgeKitException.Input("an image of ${planes.size} planes is not RGBA; make the analysis with OUTPUT_IMAGE_FORMAT_RGBA_8888")
    val source = plane.buffer.duplicate().apply { rewind() }
    val bytes = ByteArray(source.remaining()).also { source.get(it) }
    return Frame(bytes, width, height, Frame.Format.RGBA, plane.rowStride, Orientation.ofDegrees(degrees), mirrored, timestamp * 1e-9)
}
