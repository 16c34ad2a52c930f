package com.example.edgeapp

import android.app.ActivityManager
import android.content.Context
import android.os.Build
import android.os.PowerManager
import edgekit.Device

/** What records say of this phone. */
fun phone(context: Context): Device {
    val memory = ActivityManager.MemoryInfo()
    (context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).getMemoryInfo(memory)
    return Device(
        "${Build.MANUFACTURER} ${Build.MODEL}", "Android ${Build.VERSION.RELEASE}", Runtime.getRuntime().availableProcessors(), memory.totalMem,
    )
}

/** `none`, `light`, `moderate`, `severe` or worse, as Android counts; `unknown` before Android 10. */
fun thermalState(context: Context): String {
    if (Build.VERSION.SDK_INT < Build.VERSION_CODES.Q) return "unknown"
    val status = (context.getSystemService(Context.POWER_SERVICE) as PowerManager).currentThermalStatus
    return listOf("none", "light", "moderate", "severe", "critical", "emergency", "shutdown").getOrElse(status) { "unknown" }
}
