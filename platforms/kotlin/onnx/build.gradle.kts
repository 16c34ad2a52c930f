plugins {
    kotlin("jvm")
    `java-library`
}

group = "edgekit"

kotlin {
    compilerOptions {
        jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_11
    }
}

java {
    sourceCompatibility = JavaVersion.VERSION_11
    targetCompatibility = JavaVersion.VERSION_11
}

dependencies {
    api(project(":core"))
    // The app chooses: onnxruntime-android, or onnxruntime on a JVM. Both have these classes.
    compileOnly("com.microsoft.onnxruntime:onnxruntime:1.22.0")
}
