pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositories {
        google()
        mavenCentral()
    }
}

rootProject.name = "EdgeApp"
include(":app")
for (module in listOf("core", "camerax", "litert")) {
    include(":$module")
    project(":$module").projectDir = file("edgekit/$module")
}
