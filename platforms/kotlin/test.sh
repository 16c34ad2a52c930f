#!/bin/sh
# Kotlin on any Debian or Ubuntu: sets the compiler up once, in a folder of its own, and runs the tests of `core`. No Gradle.
#
#   platforms/kotlin/test.sh                  compile everything and run all tests
#   platforms/kotlin/test.sh prepare          only the toolchain
#   platforms/kotlin/test.sh GoldenTest ...   compile, and run these classes of tests
#   platforms/kotlin/test.sh benchmark FOLDER what benchmarks/platforms.py runs
#
# EDGEKIT_KOTLIN_ROOT   the folder; 100 MB, by default in the user's cache
# EDGEKIT_KOTLIN_BUILD  where it compiles to, by default a folder in that
# EDGEKIT_KOTLIN_BUNDLES  a folder of converted bundles to test with (tests/test_platform_kotlin.py makes them)
#
# A JDK (17 or newer) and JUnit 4 are the system's: they are installed by apt-get where they are missing.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=${EDGEKIT_KOTLIN_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/edgekit/kotlin}
build=${EDGEKIT_KOTLIN_BUILD:-$root/build}
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

# The module onnx against stubs of ONNX Runtime's Java interface: compiled, and never run.
compile_onnx() {
    onnx=$build/onnx.jar
    [ -e "$onnx" ] && [ "$onnx" -nt "$core" ] && [ -z "$(find "$here/onnx" -newer "$onnx")" ] && return
    kotlin -module-name onnx -cp "$core:$libraries" -d "$onnx.new.jar" "$here/onnx/src/main/kotlin" "$here/onnx/stubs"
    mv "$onnx.new.jar" "$onnx"
}

every() {
    cd "$here/core/src/test/kotlin/edgekit" && ls -- *Test.kt | sed 's/\.kt$//'
}

prepare
[ "${1:-}" != prepare ] || exit 0
compile
if [ "${1:-}" = benchmark ]; then
    exec java -Xmx2g -cp "$core:$tests:$libraries" edgekit.BenchmarkKt "$2"
fi
[ $# -gt 0 ] || compile_onnx
[ $# -gt 0 ] || set -- $(every)
names=
for name in "$@"; do names="$names edgekit.$name"; done
# shellcheck disable=SC2086
exec java -Xmx2g -Dedgekit.root="$here/../.." -Dedgekit.bundles="${EDGEKIT_KOTLIN_BUNDLES:-}" -cp "$core:$tests:$libraries" org.junit.runner.JUnitCore $names
