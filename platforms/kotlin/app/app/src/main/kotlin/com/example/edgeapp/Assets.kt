package com.example.edgeapp

import android.content.Context
import android.content.res.AssetManager
import java.io.File

/** The bundle as files: engines and hashes need a folder, and assets are in the app's archive. Copied once for each version of the app. */
fun modelFolder(context: Context): File {
    val version = context.packageManager.getPackageInfo(context.packageName, 0).lastUpdateTime
    val folder = File(context.filesDir, "model-$version")
    if (folder.isDirectory) return folder
    context.filesDir.listFiles { file -> file.name.startsWith("model") }?.forEach { it.deleteRecursively() }
    val unfinished = File(context.filesDir, "model-unfinished")
    copy(context.assets, "model", unfinished)
    unfinished.renameTo(folder)
    return folder
}

/** A folder of assets has a list of names; a file has none. */
private fun copy(assets: AssetManager, path: String, to: File) {
    val names = assets.list(path).orEmpty()
    if (names.isEmpty()) {
        to.parentFile?.mkdirs()
        assets.open(path).use { from -> to.outputStream().use { from.copyTo(it) } }
    }
    for (name in names) copy(assets, "$path/$name", File(to, name))
}
