"""Kotlin's compiler, Android's classes and ONNX Runtime's AAR, got by Maven (and npm) into their caches."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from edgecompress.devices.emulated.spec import cache_folder
from edgecompress.files import resource
from edgecompress.platforms.android import ONNX_RUNTIME

KOTLIN = "2.2.21"
GRADLE_PLUGIN = ("gradle-plugin", "gradle-plugin-api", "tooling-core")
COMPILER = f"org.jetbrains.kotlin:kotlin-compiler-embeddable:{KOTLIN}"
STANDARD = f"org.jetbrains.kotlin:kotlin-stdlib:{KOTLIN}"
RUNTIME = f"com.microsoft.onnxruntime:onnxruntime:{ONNX_RUNTIME}"
AAR = f"com.microsoft.onnxruntime:onnxruntime-android:{ONNX_RUNTIME}:aar"
AAR_IN_NPM = ("com.github.asus4.onnxruntime@0.4.9", "package/Plugins/Android/onnxruntime.aar")
"""A plug-in for Unity that holds the same AAR, with another manifest: where Maven's servers have none."""
ANDROID = "org.robolectric:android-all:16-robolectric-13921718-2"
JUNIT = "junit:junit:4.13.2"
ON_PHONES = (
    "androidx.test:core:1.7.0:aar",
    "androidx.test:runner:1.7.0:aar",
    "androidx.test:monitor:1.8.0:aar",
    "androidx.test.ext:junit:1.3.0:aar",
)
ROBOLECTRIC = "org.robolectric:robolectric:4.16.1"
IMITATED = "org.robolectric:android-all-instrumented:14-robolectric-10818077-i7"
"""Android 14 as Robolectric runs it: the newest that Java 17 does."""
IMITATED_API = 34
BESIDE_ROBOLECTRIC = (
    "androidx.test.espresso:espresso-idling-resource:3.7.0:aar",
    "androidx.tracing:tracing:1.1.0:aar",
    "androidx.lifecycle:lifecycle-common:2.3.1",
)
"""What androidx.test needs when it runs."""
MERGER = "com.android.tools.build:manifest-merger:31.13.2"
"""Of the Android Gradle plugin 8.13.2."""
SHRINKER = "com.android.tools:r8:8.13.19"
GRADLE = (
    "com.android.tools.build:gradle-api:8.13.2",
    "dev.gradleplugins:gradle-api:8.11.1",
    *(f"org.jetbrains.kotlin:kotlin-{name}:{KOTLIN}" for name in GRADLE_PLUGIN),
)
"""The types of what build files say: Android's plugin, Gradle, Kotlin's plugin."""
OLDEST_API = ("com.toasttab.android:gummy-bears-api-24:0.5.1:signature", "org.codehaus.mojo:animal-sniffer:1.27")
HERE = Path(__file__).parent
MODULE = resource("deploy") / "android"
KOTLIN_FILES = "src/main/kotlin/edge/model"
ON_ANDROID = ("OnAndroid.kt", "CheckActivity.kt")
"""The files of the module that know Android."""
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>edge</groupId>
<artifactId>wanted</artifactId><version>1</version><packaging>pom</packaging><dependencies>{}</dependencies></project>
"""
ALONE = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"


def folder() -> Path:
    """What is kept from one run of the tests to the next."""
    found = cache_folder() / "android"
    found.mkdir(parents=True, exist_ok=True)
    return found


def program(name: str, package: str) -> str:
    """Its path; the test is skipped where it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here: apt-get install {package}")
    return found


def java() -> str:
    """Java 17 or newer."""
    return program("java", "openjdk-17-jdk-headless")


def jars(*wanted: str, alone: bool = False) -> list[Path]:
    """Of Maven's ``group:artifact:version[:type]`` with all they need (``alone``: without); the test is skipped where
    they cannot be had."""
    found = resolved(wanted, alone)
    if isinstance(found, str):
        pytest.skip(f"Maven does not get {', '.join(wanted)}: {found}")
    return found


@cache
def resolved(wanted: tuple[str, ...], alone: bool) -> list[Path] | str:
    """The files, or why there are none."""
    maven, pom = program("mvn", "maven"), POM.format("".join(_dependency(one, alone) for one in wanted))
    place = folder() / hashlib.sha256(pom.encode()).hexdigest()[:16]
    listed = place / "classpath"
    if not listed.is_file() or not all(Path(file).is_file() for file in listed.read_text().split(os.pathsep)):
        place.mkdir(exist_ok=True)
        (place / "pom.xml").write_text(pom)
        argv = [maven, "-B", "-q", "-f", str(place), "dependency:build-classpath", f"-Dmdep.outputFile={listed}"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return next((line for line in done.stdout.splitlines() if "ERROR" in line), done.stderr)[:300]
    return [Path(file) for file in listed.read_text().split(os.pathsep)]


def _dependency(wanted: str, alone: bool) -> str:
    group, artifact, version, kind = (*wanted.split(":"), "jar")[:4]
    fields = {"groupId": group, "artifactId": artifact, "version": version, "type": kind}
    inner = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in fields.items())
    return f"<dependency>{inner}{ALONE if alone else ''}</dependency>"


@cache
def aar() -> Path:
    """ONNX Runtime's AAR: from Maven, else out of the plug-in in npm."""
    kept = folder() / f"onnxruntime-{ONNX_RUNTIME}.aar"
    if kept.is_file():
        return kept
    found = resolved((AAR,), True)
    shutil.copyfile(_aar_in_npm() if isinstance(found, str) else found[0], kept)
    return kept


def _aar_in_npm() -> Path:
    package, path = AAR_IN_NPM
    npm, place = program("npm", "npm"), folder() / "npm"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    done = subprocess.run([npm, "pack", "--silent", package], cwd=place, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"neither Maven nor npm gets ONNX Runtime's AAR ({AAR}, {package}): {done.stderr[-200:]}")
    (packed,) = place.glob("*.tgz")
    subprocess.run(["tar", "-xzf", packed.name, path], cwd=place, check=True)
    packed.unlink()
    return place / path


def classes_of(archives: Iterable[Path]) -> list[Path]:
    """Jars as they are, of AARs the jar in them."""
    return [_classes(one) if one.suffix == ".aar" else one for one in archives]


def _classes(archive: Path) -> Path:
    to = folder() / "classes" / f"{archive.stem}.jar"
    if not to.is_file():
        to.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(archive) as opened:
            to.write_bytes(opened.read("classes.jar"))
    return to


def classpath(files: Iterable[Path]) -> str:
    """As Java takes it."""
    return os.pathsep.join(map(str, files))


def libraries() -> list[Path]:
    """What the module is compiled against: the AAR, Android itself, androidx.test, JUnit, Kotlin's own."""
    on_phones = classes_of(jars(*ON_PHONES, alone=True))
    return [*classes_of([aar()]), *jars(ANDROID, alone=True), *on_phones, *jars(STANDARD), *jars(JUNIT)]


def compile_kotlin(sources: Sequence[Path], against: Iterable[Path], to: Path) -> subprocess.CompletedProcess[str]:
    """``kotlinc`` with warnings as errors."""
    given = ["-no-stdlib", "-no-reflect", "-jvm-target", "17", "-Werror", "-module-name", "edge_model"]
    friends = [f"-Xfriend-paths={to}"] if to.is_dir() else []
    compiler = ["-Xmx1500m", "-cp", classpath(jars(COMPILER)), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    argv = [java(), *compiler, *given, *friends, "-cp", classpath(against), "-d", str(to), *map(str, sources)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def run_kotlin(
    classes: Path,
    *arguments: str | Path,
    main: str = "edge.model.HarnessKt",
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    within: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """A program on the JVM with ONNX Runtime's Java API; telemetry is off unless ``env`` says otherwise."""
    files = [classes, *jars(RUNTIME), *jars(STANDARD), *jars(JUNIT)]
    argv = [*within, java(), "-Xmx600m", "-cp", classpath(files), main, *map(str, arguments)]
    quiet = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=cwd, env=quiet if env is None else env)
