package com.example.edgeapp

import android.util.Size
import androidx.activity.ComponentActivity
import androidx.camera.core.CameraSelector
import androidx.camera.core.ImageAnalysis
import androidx.camera.core.Preview
import androidx.camera.core.resolutionselector.ResolutionSelector
import androidx.camera.core.resolutionselector.ResolutionStrategy
import androidx.camera.lifecycle.ProcessCameraProvider
import androidx.camera.view.PreviewView
import edgekit.EdgeKitException
import edgekit.Frame
import edgekit.camerax.frames
import java.util.concurrent.Executors
import kotlin.coroutines.resume
import kotlin.coroutines.resumeWithException
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.suspendCancellableCoroutine

/** A camera that is shown in a view and looked at as frames of sizes near those of models: 640x480. */
class Camera(private val activity: ComponentActivity, private val view: PreviewView) {
    private val executor = Executors.newSingleThreadExecutor()
    private var provider: ProcessCameraProvider? = null
    private var analysis: ImageAnalysis? = null
    private var preview: Preview? = null

    init {
        view.scaleType = PreviewView.ScaleType.FIT_CENTER
    }

    /** Throws [EdgeKitException.Input]: the phone has no such camera. */
    suspend fun frames(isFront: Boolean): Flow<Frame> {
        val provider = provider ?: opened().also { provider = it }
        val selector = if (isFront) CameraSelector.DEFAULT_FRONT_CAMERA else CameraSelector.DEFAULT_BACK_CAMERA
        if (!provider.hasCamera(selector)) {
            throw EdgeKitException.Input("this phone has no ${if (isFront) "front" else "back"} camera; choose the other one, or a picture")
        }
        val near = ResolutionStrategy(Size(640, 480), ResolutionStrategy.FALLBACK_RULE_CLOSEST_HIGHER_THEN_LOWER)
        val sizes = ResolutionSelector.Builder().setResolutionStrategy(near).build()
        val analysis = ImageAnalysis.Builder().setOutputImageFormat(ImageAnalysis.OUTPUT_IMAGE_FORMAT_RGBA_8888)
            .setBackpressureStrategy(ImageAnalysis.STRATEGY_KEEP_ONLY_LATEST).setResolutionSelector(sizes).build()
        val preview = Preview.Builder().setResolutionSelector(sizes).build().apply { surfaceProvider = view.surfaceProvider }
        provider.unbindAll()
        provider.bindToLifecycle(activity, selector, preview, analysis)
        this.analysis = analysis
        this.preview = preview
        turned()
        return analysis.frames(executor, mirrored = isFront)
    }

    /** The screen was turned: frames are upright again from now on. */
    fun turned() {
        val rotation = view.display?.rotation ?: return
        analysis?.targetRotation = rotation
        preview?.targetRotation = rotation
    }

    fun stop() {
        provider?.unbindAll()
        analysis = null
        preview = null
    }

    fun close() {
        stop()
        executor.shutdown()
    }

    private suspend fun opened(): ProcessCameraProvider = suspendCancellableCoroutine { waiting ->
        val future = ProcessCameraProvider.getInstance(activity)
        future.addListener(
            {
                try {
                    waiting.resume(future.get())
                } catch (problem: Exception) {
                    waiting.resumeWithException(EdgeKitException.Input("the camera cannot be used: ${problem.message}; close other apps that use it"))
                }
            },
            activity.mainExecutor,
        )
    }
}
