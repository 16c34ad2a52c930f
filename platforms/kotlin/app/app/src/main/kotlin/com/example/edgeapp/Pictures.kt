package com.example.edgeapp

import android.content.Context
import android.graphics.Bitmap
import android.graphics.ImageDecoder
import android.net.Uri
import edgekit.EdgeKitException
import edgekit.Frame
import java.io.IOException
import kotlin.random.Random

/** A picture that was chosen. Throws [EdgeKitException.Input]: not one. */
fun decoded(context: Context, uri: Uri): Bitmap = try {
    // Upright, whatever its EXIF says, and in memory that can be read.
    ImageDecoder.decodeBitmap(ImageDecoder.createSource(context.contentResolver, uri)) { decoder, _, _ -> decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE }
} catch (problem: IOException) {
    throw EdgeKitException.Input("this is not a picture that the system can read (${problem.message}); choose a PNG, JPEG or WebP file")
}

/** A frame of grey noise. */
internal fun noise(width: Int, height: Int): Frame = Frame(Random.nextBytes(3 * width * height), width, height, Frame.Format.RGB)
