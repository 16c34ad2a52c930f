#!/bin/sh
# Kotlin on any Debian or Ubuntu: sets the compiler up once, in a folder of its own, and runs the tests of all that is plain Kotlin. What
# needs Android is compiled against stubs. No Gradle.
#
#   platforms/kotlin/test.sh                  compile everything and run all tests
#   platforms/kotlin/test.sh prepare          only the toolchain
#   platforms/kotlin/test.sh GoldenTest ...   compile, and run these classes of tests
#   platforms/kotlin/test.sh benchmark FOLDER what benchmarks/platforms.py runs
#   platforms/kotlin/test.sh app FOLDER       compile a project that edgekit app android wrote, and run its tests
#
# EDGEKIT_KOTLIN_ROOT   the folder; 100 MB, by default in the user's cache
# EDGEKIT_KOTLIN_BUILD  where it compiles to, by default a folder in that for each checkout
# EDGEKIT_KOTLIN_BUNDLES  a folder of converted bundles to test with (tests/test_platform_kotlin.py makes them)
#
# A JDK (17 or newer) and JUnit 4 are the system's: they are installed by apt-get where they are missing.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=${EDGEKIT_KOTLIN_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/edgekit/kotlin}
build=${EDGEKIT_KOTLIN_BUILD:-$root/build/$(printf %s "$here" | cksum | cut -d ' ' -f 1)}
compiler=2.4.20
lib=$root/node_modules/kotlin-compiler/lib
java=/usr/share/java

fail() {
    echo "test.sh: $*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

prepare() {
    packages=
    command -v java > /dev/null || packages="openjdk-17-jre-headless"
    [ -e $java/junit4.jar ] && [ -e $java/hamcrest.jar ] || packages="$packages junit4"
    if [ -n "$packages" ]; then
        command -v apt-get > /dev/null || fail "needs a JDK (17 or newer) and JUnit 4 in $java; this system has no apt-get to install them"
        # shellcheck disable=SC2086
        as_root apt-get install -y --no-install-recommends $packages > /dev/null || fail "apt-get could not install:$packages"
    fi
    [ -e "$root/.edgekit-ready-$compiler" ] && return
    command -v npm > /dev/null || fail "needs npm, which has the Kotlin compiler (package kotlin-compiler)"
    echo "setting Kotlin $compiler up in $root (100 MB)" >&2
    mkdir -p "$root"
    npm install --no-audit --no-fund --ignore-scripts --silent --prefix "$root" "kotlin-compiler@$compiler" >&2 || fail "npm could not install the compiler"
    touch "$root/.edgekit-ready-$compiler"
}

kotlin() {
    java -Xmx1g -cp "$lib/kotlin-compiler.jar:$lib/kotlin-stdlib.jar:$lib/kotlin-script-runtime.jar:$lib/kotlin-reflect.jar:$lib/kotlinx-coroutines-core-jvm.jar:$lib/annotations-13.0.jar" \
        org.jetbrains.kotlin.cli.jvm.K2JVMCompiler -kotlin-home "$root/node_modules/kotlin-compiler" -no-stdlib -no-reflect -Xjdk-release=11 -Werror "$@"
}

# Compile what has changed since the last time.
compile() {
    core=$build/core.jar tests=$build/tests.jar
    mkdir -p "$build"
    libraries=$lib/kotlin-stdlib.jar:$lib/kotlinx-coroutines-core-jvm.jar
    if [ ! -e "$core" ] || [ -n "$(find "$here/core/src/main" -newer "$core")" ]; then
        kotlin -module-name core -cp "$libraries" -d "$core.new.jar" "$here/core/src/main/kotlin"
        mv "$core.new.jar" "$core"
    fi
    libraries=$libraries:$java/junit4.jar:$java/hamcrest.jar
    if [ ! -e "$tests" ] || [ "$core" -nt "$tests" ] || [ -n "$(find "$here/core/src/test" -newer "$tests")" ]; then
        kotlin -module-name core_test -cp "$core:$libraries" -Xfriend-paths="$core" -d "$tests.new.jar" "$here/core/src/test/kotlin"
        mv "$tests.new.jar" "$tests"
    fi
}

stale() { # JAR FOLDER...: whether a folder has changed since, or core
    jar=$1
    shift
    [ ! -e "$jar" ] || [ "$core" -nt "$jar" ] || [ -n "$(find "$@" -newer "$jar")" ]
}

# What needs an engine's or Android's own classes, against stubs of them: compiled, and never run, but for the parts that are plain Kotlin.
compile_modules() {
    stubs=$build/stubs.jar
    if stale "$stubs" "$here/stubs"; then
        kotlin -module-name stubs -cp "$libraries" -d "$stubs.new.jar" "$here/stubs"
        mv "$stubs.new.jar" "$stubs"
    fi
    compile_module onnx "$here/onnx/stubs"
    compile_module litert "$here/stubs"
    compile_module camerax "$here/stubs"
}

compile_module() { # NAME STUBS
    if stale "$build/$1.jar" "$here/$1" "$2"; then
        kotlin -module-name "$1" -cp "$core:$stubs:$libraries" -Xjava-source-roots="$2" -d "$build/$1.new.jar" "$here/$1/src/main/kotlin"
        mv "$build/$1.new.jar" "$build/$1.jar"
    fi
    [ -e "$here/$1/src/test" ] && stale "$build/$1_test.jar" "$here/$1" || return 0
    kotlin -module-name "$1_test" -cp "$build/$1.jar:$core:$stubs:$libraries" -Xfriend-paths="$build/$1.jar" -Xjava-source-roots="$2" \
        -d "$build/$1_test.new.jar" "$here/$1/src/test/kotlin"
    mv "$build/$1_test.new.jar" "$build/$1_test.jar"
}

# A project of edgekit app android, with the modules that are compiled here already; its own tests run on its own bundle.
app() {
    sources=$1/app/src
    [ -e "$sources/main/assets/model/manifest.json" ] || fail "$1: no project of edgekit app android"
    modules=$core:$build/camerax.jar:$build/litert.jar:$build/onnx.jar:$stubs:$libraries
    place=$(mktemp -d)
    trap 'rm -r "$place"' EXIT
    kotlin -module-name app -cp "$modules" -Xjava-source-roots="$here/stubs" -d "$place/app.jar" "$sources/main/kotlin"
    kotlin -module-name app_test -cp "$place/app.jar:$modules" -Xfriend-paths="$place/app.jar" -Xjava-source-roots="$here/stubs" \
        -d "$place/tests.jar" "$sources/test/kotlin"
    java -Dedgeapp.model="$sources/main/assets/model" -cp "$place/app.jar:$place/tests.jar:$modules" org.junit.runner.JUnitCore com.example.edgeapp.ModelTest
}

every() {
    for module in core litert camerax; do
        (cd "$here/$module/src/test/kotlin" && find . -name '*Test.kt' | sed 's|^\./||; s|\.kt$||; s|/|.|g' | sort)
    done
}

prepare
[ "${1:-}" != prepare ] || exit 0
compile
if [ "${1:-}" = benchmark ]; then
    exec java -Xmx2g -cp "$core:$tests:$libraries" edgekit.BenchmarkKt "$2"
fi
if [ "${1:-}" = app ]; then
    compile_modules
    app "$2"
    exit
fi
if [ $# -eq 0 ]; then
    compile_modules
    names=$(every)
else
    names=
    for name in "$@"; do names="$names edgekit.$name"; done
fi
for module in litert camerax; do
    [ $# -gt 0 ] || tests=$tests:$build/$module.jar:$build/${module}_test.jar
done
# shellcheck disable=SC2086
exec java -Xmx2g -Dedgekit.root="$here/../.." -Dedgekit.bundles="${EDGEKIT_KOTLIN_BUNDLES:-}" -cp "$core:$tests:$libraries" org.junit.runner.JUnitCore $names
