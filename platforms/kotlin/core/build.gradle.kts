plugins {
    kotlin("jvm")
    `java-library`
}

group = "edgekit"

kotlin {
    compilerOptions {
        jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_11
        allWarningsAsErrors = true
    }
}

java {
    sourceCompatibility = JavaVersion.VERSION_11
    targetCompatibility = JavaVersion.VERSION_11
}

dependencies {
    api("org.jetbrains.kotlinx:kotlinx-coroutines-core:1.10.2")
    testImplementation("junit:junit:4.13.2")
}

tasks.test {
    systemProperty("edgekit.root", rootDir.resolve("../..").canonicalPath)
    systemProperty("edgekit.bundles", System.getenv("EDGEKIT_KOTLIN_BUNDLES") ?: "")
}
