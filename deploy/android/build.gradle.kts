import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    id("com.android.application") apply false  // of the sample, so that both have one version
    id("com.android.library")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "edge.model"
    compileSdk = 36

    defaultConfig {
        minSdk = 24
        consumerProguardFiles("consumer-rules.pro")
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    testOptions {
        // src/test runs the same core on this machine, before any phone.
        unitTests.all { it.environment("ORT_DISABLE_TELEMETRY", "1") }
    }
}

kotlin {
    compilerOptions { jvmTarget.set(JvmTarget.JVM_17) }
}

dependencies {
    // A build of your own with the model's operators alone goes in here: api(files("onnxruntime-reduced.aar"))
    api("com.microsoft.onnxruntime:onnxruntime-android:1.29.0")

    testImplementation("com.microsoft.onnxruntime:onnxruntime:1.29.0")
    testImplementation("junit:junit:4.13.2")
    androidTestImplementation("androidx.test:core:1.7.0")
    androidTestImplementation("androidx.test:runner:1.7.0")
    androidTestImplementation("androidx.test.ext:junit:1.3.0")
}
