plugins {
    id("com.android.library")
    kotlin("android")
}

android {
    namespace = "edgekit.camerax"
    compileSdk = 36

    defaultConfig {
        minSdk = 28
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }
}

kotlin {
    compilerOptions {
        jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_11
    }
}

dependencies {
    api(project(":core"))
    api("androidx.camera:camera-core:1.4.2")
    testImplementation("junit:junit:4.13.2")
}
