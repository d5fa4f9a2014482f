package edge.gradle

import com.android.build.api.dsl.ApplicationExtension
import com.android.build.api.dsl.LibraryExtension
import org.gradle.api.artifacts.dsl.RepositoryHandler
import org.gradle.plugin.use.PluginDependenciesSpec
import org.gradle.plugin.use.PluginDependencySpec
import org.jetbrains.kotlin.gradle.dsl.KotlinAndroidProjectExtension

/** What a build file may say, with the types that Gradle and its plugins have for it, where that is the question. */
abstract class BuildFile<Android> {
    fun plugins(block: PluginDependenciesSpec.() -> Unit) = block

    fun android(block: Android.() -> Unit) = block

    fun kotlin(block: KotlinAndroidProjectExtension.() -> Unit) = block

    fun dependencies(block: Dependencies.() -> Unit) = block
}

abstract class ModuleFile : BuildFile<LibraryExtension>()

abstract class SampleFile : BuildFile<ApplicationExtension>()

interface Dependencies {
    fun api(what: Any)

    fun implementation(what: Any)

    fun testImplementation(what: String)

    fun androidTestImplementation(what: String)

    fun project(path: String): Any
}

/** What the settings may say. */
abstract class SettingsFile {
    val rootProject = Root()

    fun pluginManagement(block: Plugins.() -> Unit) = block

    fun dependencyResolutionManagement(block: Repositories.() -> Unit) = block

    fun include(path: String) = path

    class Root {
        var name = ""
    }

    interface Repositories {
        fun repositories(block: RepositoryHandler.() -> Unit)
    }

    interface Plugins : Repositories {
        fun plugins(block: PluginDependenciesSpec.() -> Unit)
    }
}

infix fun PluginDependencySpec.version(version: String): PluginDependencySpec = version(version)

infix fun PluginDependencySpec.apply(apply: Boolean): PluginDependencySpec = apply(apply)
