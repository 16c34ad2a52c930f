package com.example.edgeapp

import edgekit.EdgeBundle
import edgekit.EdgeKitException
import edgekit.Frame
import java.io.File
import java.nio.file.Files
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** The bundle as the app has it, on the JVM of the build: no phone, no engine. */
class ModelTest {
    private val folder = File(System.getProperty("edgeapp.model") ?: "src/main/assets/model")

    @Test
    fun theBundleIsWhole() {
        val bundle = EdgeBundle.open(folder)
        assertTrue(bundle.manifest.summary, bundle.manifest.graphs.isNotEmpty())
        assertTrue(bundle.digest.length == 64)
    }

    @Test
    fun aFlippedByteIsFound() {
        val copy = Files.createTempDirectory("model").toFile()
        folder.copyRecursively(copy, overwrite = true)
        val file = File(copy, EdgeBundle.open(copy).manifest.graphs[0].files[0])
        file.writeBytes(file.readBytes().also { it[it.size / 2] = (it[it.size / 2] + 1).toByte() })
        assertThrows(EdgeKitException.Bundle::class.java) { EdgeBundle.open(copy) }
        copy.deleteRecursively()
    }

    @Test
    fun noiseIsAFrame() {
        assertEquals(Frame.Format.RGB, noise(4, 3).format)
    }
}
