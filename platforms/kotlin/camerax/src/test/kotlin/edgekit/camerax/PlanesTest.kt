package edgekit.camerax

import edgekit.EdgeKitException
import edgekit.Frame
import edgekit.Orientation
import java.nio.ByteBuffer
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** What a camera's image becomes. */
class PlanesTest {
    /** 2 x 2 pixels in rows of 12 bytes, the last of which is not padded, as cameras deliver them. */
    private val bytes = ByteArray(20) { it.toByte() }

    private fun frame(plane: Plane = Plane(ByteBuffer.wrap(bytes), 12, 4), degrees: Int = 90): Frame =
        frameOf(listOf(plane), 2, 2, degrees, true, 1_500_000_000)

    @Test
    fun itsBytesRotationAndTimeAreKept() {
        val found = frame()
        assertEquals(listOf<Any>(2, 2, 12, Frame.Format.RGBA), listOf<Any>(found.width, found.height, found.bytesPerRow, found.format))
        assertEquals(Orientation.RIGHT, found.orientation)
        assertTrue(found.mirrored)
        assertEquals(1.5, found.time!!, 1e-12)
        assertArrayEquals(bytes, found.pixels)
    }

    @Test
    fun theCameraMayTakeItsBufferBack() {
        val buffer = ByteBuffer.wrap(bytes.copyOf())
        buffer.position(7) // where others read it before
        val found = frame(Plane(buffer, 12, 4))
        buffer.clear()
        while (buffer.hasRemaining()) buffer.put(99)
        assertArrayEquals(bytes, found.pixels)
    }

    @Test
    fun otherFormatsAreRefused() {
        val yuv = List(3) { Plane(ByteBuffer.wrap(bytes), 2, 1) }
        val problem = assertThrows(EdgeKitException.Input::class.java) { frameOf(yuv, 2, 2, 0, false, 0) }
        assertEquals("an image of 3 planes is not RGBA; make the analysis with OUTPUT_IMAGE_FORMAT_RGBA_8888", problem.message)
        assertThrows(EdgeKitException.Input::class.java) { frame(Plane(ByteBuffer.wrap(bytes), 12, 1)) }
        assertThrows(EdgeKitException.Input::class.java) { frame(Plane(ByteBuffer.wrap(bytes.copyOf(10)), 12, 4)) }
        assertThrows(EdgeKitException.Usage::class.java) { frame(degrees = 45) }
    }
}
