@file:Suppress("UNUSED_PARAMETER", "UNUSED")

package com.google.ai.edge.litert

import android.content.Context

enum class Accelerator { NONE, CPU, GPU, NPU }

class LiteRtException(message: String) : Exception(message)

class Environment private constructor() : AutoCloseable {
    override fun close() = Unit

    companion object {
        fun create(context: Context, options: Map<String, String> = mapOf(), enableCompilerCache: Boolean = true): Environment = Environment()
    }
}

class TensorBuffer : AutoCloseable {
    fun writeFloat(data: FloatArray): Unit = throw UnsupportedOperationException()

    fun readFloat(): FloatArray = throw UnsupportedOperationException()

    override fun close() = Unit
}

class CompiledModel private constructor() : AutoCloseable {
    data class CpuOptions(val numThreads: Int? = null, val xnnPackFlags: Int? = null, val xnnPackWeightCachePath: String? = null)

    class Options(vararg accelerators: Accelerator) {
        var cpuOptions: CpuOptions? = null
    }

    fun createInputBuffer(inputName: String, signature: String? = null): TensorBuffer = throw UnsupportedOperationException()

    fun createOutputBuffer(outputName: String, signature: String? = null): TensorBuffer = throw UnsupportedOperationException()

    fun run(inputs: Map<String, TensorBuffer>, outputs: Map<String, TensorBuffer>, signature: String? = null): Unit = throw UnsupportedOperationException()

    override fun close() = Unit

    companion object {
        fun create(filePath: String, options: Options = Options(Accelerator.CPU), optionalEnv: Environment? = null): CompiledModel = CompiledModel()
    }
}
