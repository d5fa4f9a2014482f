"""The module as an app: manifests merged, shrunk to dex, packaged, and run by Robolectric; nothing sent home."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgecompress.bundling import bundle
from edgecompress.exporting import export
from edgecompress.platforms.android import Android
from tests.bundling.tampering import TAMPERINGS
from tests.platforms.android.toolchain import (
    ANDROID,
    BESIDE_ROBOLECTRIC,
    GRADLE,
    HERE,
    IMITATED,
    IMITATED_API,
    JUNIT,
    MERGER,
    MODULE,
    OLDEST_API,
    ON_PHONES,
    ROBOLECTRIC,
    RUNTIME,
    SHRINKER,
    STANDARD,
    aar,
    classes_of,
    classpath,
    compile_kotlin,
    jars,
    java,
    libraries,
    program,
    run_kotlin,
)
from tests.platforms.test_pi import _without_data

pytestmark = pytest.mark.bundles

ANDROIDS = "http://schemas.android.com/apk/res/android"
ElementTree.register_namespace("android", ANDROIDS)
ElementTree.register_namespace("tools", "http://schemas.android.com/tools")
NAME = f"{{{ANDROIDS}}}name"
LIBRARY_MANIFEST = """<manifest xmlns:android="http://schemas.android.com/apk/res/android" package="ai.onnxruntime">
    <uses-permission android:name="android.permission.INTERNET" />
    <uses-permission android:name="android.permission.ACCESS_NETWORK_STATE" />
    <application>
        <provider
            android:name="ai.onnxruntime.TelemetryInitializer"
            android:authorities="${applicationId}.onnxruntime_telemetry_initializer"
            android:initOrder="100" />
    </application>
</manifest>
"""
"""What the published AAR adds to an app since 1.29 (the copy in npm has another manifest)."""
BARE = '<manifest xmlns:android="http://schemas.android.com/apk/res/android"><application /></manifest>'


def merged(folder: Path, *texts: str) -> Path:
    """The manifest of an app (the first) and its libraries, as the Android Gradle plugin merges them."""
    files = []
    for index, text in enumerate(texts):
        root = ElementTree.fromstring(text)
        root.set("package", root.get("package", f"edge.part{index}"))
        if index:
            ElementTree.SubElement(root, "uses-sdk", {f"{{{ANDROIDS}}}minSdkVersion": "24"})
        files.append(folder / f"manifest_{index}.xml")
        ElementTree.ElementTree(root).write(files[-1], "utf-8", xml_declaration=True)
    given = ["--main", str(files[0]), "--placeholder", "applicationId=edge.sample"]
    given += ["--libs", classpath(files[1:])] if files[1:] else []
    given += ["--property", "MIN_SDK_VERSION=24", "--property", f"TARGET_SDK_VERSION={IMITATED_API}"]
    to = folder / "merged.xml"
    argv = [java(), "-cp", classpath(jars(MERGER)), "com.android.manifmerger.Merger", *given]
    done = subprocess.run(
        [*argv, "--remove-tools-declarations", "--out", str(to)], capture_output=True, text=True, check=False
    )
    assert to.is_file(), done.stdout + done.stderr
    return to


def of_module(path: str = "src/main/AndroidManifest.xml") -> str:
    """A manifest of the module."""
    return (MODULE / path).read_text()


def named(manifest: Path) -> set[str]:
    """Permissions and providers in it."""
    root = ElementTree.parse(manifest).getroot()
    return {str(one.get(NAME)) for kind in ("uses-permission", "provider") for one in root.iter(kind)}


def test_merged_manifests_have_neither_network_nor_telemetry(tmp_path: Path) -> None:
    sample, module = of_module("sample/src/main/AndroidManifest.xml"), of_module()
    left = {"android.permission.INTERNET", "ai.onnxruntime.TelemetryInitializer"}
    assert named(merged(tmp_path, BARE, LIBRARY_MANIFEST)) > left
    assert named(merged(tmp_path, BARE, module, LIBRARY_MANIFEST)) == set()
    assert named(merged(tmp_path, sample, module, LIBRARY_MANIFEST)) == set()
    assert named(merged(tmp_path, sample, LIBRARY_MANIFEST, module)) == set()
    online = BARE.replace("<application", '<uses-permission android:name="android.permission.INTERNET"/><application')
    assert named(merged(tmp_path, online, module, LIBRARY_MANIFEST)) == {"android.permission.INTERNET"}


def test_the_module_needs_nothing_that_the_oldest_android_lacks(classes: Path, tmp_path: Path) -> None:
    own = [*(MODULE / "src/main/kotlin/edge/model").glob("*.kt")]
    done = compile_kotlin(own, libraries(), tmp_path / "main")
    assert done.returncode == 0, done.stderr
    signatures, sniffer = OLDEST_API
    (file,) = jars(signatures, alone=True)
    argv = [java(), "-cp", classpath(jars(sniffer)), str(HERE / "Api.java"), str(file)]
    checked = [
        subprocess.run([*argv, str(folder)], capture_output=True, text=True, check=True).stdout.splitlines()
        for folder in (tmp_path / "main/edge/model", classes / "edge/model")
    ]
    unknown = [line.split("Undefined reference: ")[1] for line in checked[0][:-1]]
    newer = ("android.graphics.ColorSpace", "Options.inPreferredColorSpace", "Bitmap.Config.HARDWARE")
    assert all(any(one in line for one in newer) for line in unknown), unknown
    assert any("java.awt.image" in line for line in checked[1])


def test_r8_makes_dex_of_it_with_the_rules_that_an_app_gets(classes: Path, tmp_path: Path) -> None:
    (tmp_path / "app.pro").write_text(
        "-keep class edge.model.OnAndroidKt { *; }\n-keep class edge.model.CheckActivity { *; }\n"
        "-dontwarn edge.model.**, org.junit.**, androidx.test.**, javax.imageio.**, java.awt.**\n"
    )
    main = shutil.make_archive(str(tmp_path / "main"), "zip", classes)
    rules = [tmp_path / "app.pro", MODULE / "consumer-rules.pro"]
    given = [main, *map(str, classes_of([aar()])), *map(str, jars(STANDARD))]
    configured = [word for file in rules for word in ("--pg-conf", str(file))]
    known = ["--lib", str(*jars(ANDROID, alone=True)), "--lib", str(Path(java()).resolve().parents[1])]
    argv = [java(), "-Xmx1500m", "-cp", str(*jars(SHRINKER)), "com.android.tools.r8.R8", "--release"]
    done = subprocess.run(
        [*argv, "--min-api", "24", "--output", str(tmp_path), *known, *configured, *given],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    dex = (tmp_path / "classes.dex").read_bytes()
    assert b"Lai/onnxruntime/TensorInfo;" in dex
    assert b"Ledge/model/CheckActivity;" in dex
    assert b"Ledge/model/CoreTest;" not in dex


@pytest.mark.parametrize(("right", "wrong"), [("", ""), ("compileSdk = 36", 'compileSdk = "36"')])
def test_build_files_say_what_gradle_and_its_plugins_take(right: str, wrong: str, tmp_path: Path) -> None:
    """Each as the body of a class with Gradle's own types; nothing is built."""
    files = {"Module": "build.gradle.kts", "Sample": "sample/build.gradle.kts", "Settings": "settings.gradle.kts"}
    for kind, path in files.items():
        lines = (MODULE / path).read_text().replace(right, wrong).splitlines()
        above = ["package edge.gradle", *(line for line in lines if line.startswith("import "))]
        above += ["import org.gradle.api.JavaVersion"] if kind != "Settings" else []
        body = [line for line in lines if not line.startswith("import ")]
        (tmp_path / f"{kind}.kt").write_text(
            "\n".join([*above, f"class {kind} : {kind}File() {{", "init {", *body, "}", "}"])
        )
    sources = [*(HERE / "gradle").glob("*.kt"), *tmp_path.glob("*.kt")]
    done = compile_kotlin(sources, [*jars(*GRADLE, alone=True), *jars(STANDARD)], tmp_path / "classes")
    assert (done.returncode == 0) is (right == wrong), done.stderr
    assert right == wrong or "mismatch" in done.stderr


# -- Robolectric ---------------------------------------------------------------------------------------------------


def app(folder: Path, manifest: Path, assets: Path) -> Path:
    """What Robolectric reads of an app: a package with its manifest and assets, and the folder that says so."""
    aapt = program("aapt2", "aapt")
    (android,) = jars(IMITATED, alone=True)
    package = folder / "app.apk"
    argv = [aapt, "link", "-I", str(android), "--manifest", str(manifest), "-A", str(assets), "-o", str(package)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert package.is_file(), done.stderr
    said = folder / "said"
    (said / "com/android/tools").mkdir(parents=True)
    (said / "com/android/tools/test_config.properties").write_text(
        f"android_merged_manifest={manifest}\nandroid_merged_assets={assets}\n"
        f"android_custom_package=edge.model\nandroid_resource_apk={package}\n"
    )
    (said / "robolectric.properties").write_text(
        f"sdk={IMITATED_API}\ngraphicsMode=NATIVE\nshadows=edge.model.Environment\n"
    )
    return said


def robolectric(classes: Path, said: Path) -> str:
    """What JUnit says of the phone's own test."""
    (android,) = jars(IMITATED, alone=True)
    offline = said / "android"
    offline.mkdir(exist_ok=True)
    if not (offline / android.name).exists():
        (offline / android.name).symlink_to(android)
    imitation = [one for one in jars(ROBOLECTRIC) if one.suffix == ".jar"]
    beside = classes_of([*jars(*ON_PHONES, alone=True), *jars(*BESIDE_ROBOLECTRIC, alone=True)])
    files = [classes, said, *jars(RUNTIME), *jars(STANDARD), *beside, *imitation, *jars(JUNIT), android]
    given = ["-Xmx1500m", "-Drobolectric.offline=true", f"-Drobolectric.dependency.dir={offline}"]
    done = subprocess.run(
        [java(), *given, "-cp", classpath(files), "org.junit.runner.JUnitCore", "edge.model.CheckTest"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def imitated(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module's classes, and the environment that Robolectric lacks."""
    to = Path(shutil.copytree(classes, tmp_path_factory.mktemp("imitated") / "all"))
    annotations = [one for one in jars(ROBOLECTRIC) if one.suffix == ".jar"]
    done = compile_kotlin([*(HERE / "robolectric").glob("*.kt")], [to, *libraries(), *annotations], to)
    assert done.returncode == 0, done.stderr
    return to


def test_the_phones_own_test_passes_in_an_imitated_android(imitated: Path, tmp_path: Path) -> None:
    sample = _without_data("lenet5")
    bundle(export(sample.model(), sample, tmp_path).path, tmp_path / "app", platform="android")
    assets = (tmp_path / "app" / Android.payload).parent
    manifest = merged(tmp_path, of_module("sample/src/main/AndroidManifest.xml"), of_module(), LIBRARY_MANIFEST)
    said = robolectric(imitated, app(tmp_path, manifest, assets))
    assert "OK (5 tests)" in said, said


def test_it_refuses_assets_that_were_tampered_with_and_an_app_that_reports(
    imitated: Path, payload: Path, tmp_path: Path
) -> None:
    assets = tmp_path / "assets"
    shutil.copytree(payload, assets / "edge_model")
    TAMPERINGS["one bit of the model"][0](assets / "edge_model")
    manifest = merged(tmp_path, of_module("sample/src/main/AndroidManifest.xml"), of_module(), LIBRARY_MANIFEST)
    said = robolectric(imitated, app(tmp_path, manifest, assets))
    assert "refused: model.onnx was changed or damaged" in said, said
    assert "Tests run: 5,  Failures: 4" in said, said
    shutil.rmtree(tmp_path / "said")
    shutil.rmtree(assets)
    shutil.copytree(payload, assets / "edge_model")
    loud = merged(tmp_path, of_module("sample/src/main/AndroidManifest.xml").replace('tools:node="remove"', ""))
    said = robolectric(imitated, app(tmp_path, loud, assets))
    assert "refused: the app's manifest has ai.onnxruntime.TelemetryInitializer" in said, said
    assert "Tests run: 5,  Failures: 5" in said, said


# -- telemetry -----------------------------------------------------------------------------------------------------


def test_nothing_is_sent_home(classes: Path, payload: Path) -> None:
    """Without certificates ONNX Runtime's telemetry says that it cannot report, wherever it starts; and no network."""
    unshare = program("unshare", "util-linux")
    alone = [unshare, "--mount", "--net", "sh", "-c", 'mount -t tmpfs none /etc/ssl && exec "$@"', "sh"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no network and no certificates take the rights of root: sudo make test-bundles")
    quiet = run_kotlin(classes, "check", payload, within=alone)
    assert '"ok": true' in quiet.stdout
    assert "telemetry" not in (quiet.stdout + quiet.stderr).lower()
    loud = run_kotlin(classes, "loud", within=alone, env={**os.environ, "ORT_DISABLE_TELEMETRY": "0"})
    assert "loaded" in loud.stdout
    assert "telemetry" in (loud.stdout + loud.stderr).lower()


def test_the_core_class_refuses_to_open_while_telemetry_is_on(classes: Path, payload: Path) -> None:
    loud = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    said = run_kotlin(classes, "check", payload, env=loud).stdout
    assert "set ORT_DISABLE_TELEMETRY=1 before ONNX Runtime loads" in said
    assert '"ok": false' in said
