plugins {
    id("com.android.library")
    kotlin("android")
}

android {
    namespace = "edgekit.litert"
    compileSdk = 36

    defaultConfig {
        minSdk = 28
        consumerProguardFiles("src/main/consumer-rules.pro")
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
    // 2.3 keeps the GPU in a package of its own.
    api("com.google.ai.edge.litert:litert:2.3.0")
    implementation("com.google.ai.edge.litert:litert-gpu:2.3.0")
    testImplementation("junit:junit:4.13.2")
}
