#!/bin/sh
# Runs the tests on every Vulkan driver of this machine that finds an adapter, and on SwiftShader, a software driver with other limits than Mesa's.
#   tests/drivers.sh [arguments of cargo test]     DRIVER=part of a driver's file name: that one alone
# A line for each driver at the end; exit code 1 if a test failed on any.
set -u
cd "$(dirname "$0")/.." || exit 1
cache=target/drivers
mkdir -p "$cache"

# SwiftShader comes with Debian's and Ubuntu's package of Chromium: taken out of it, not installed.
swiftshader="$cache/swiftshader/usr/lib/chromium/vk_swiftshader_icd.json"
if [ ! -e "$swiftshader" ] && command -v apt-get >/dev/null && command -v dpkg >/dev/null; then
	echo "SwiftShader: downloading the package chromium-common (32 MB) to unpack its Vulkan driver into $cache."
	(cd "$cache" && apt-get download -qq chromium-common && dpkg -x chromium-common_*.deb swiftshader && rm chromium-common_*.deb)
fi
[ -e "$swiftshader" ] || echo "SwiftShader cannot be had here: it is taken from Debian's chromium-common with apt-get and dpkg."

cargo build --release --quiet || exit 1
program="${CARGO_TARGET_DIR:-target}/release/slicegpt-gpu"
summary="$cache/summary"
: >"$summary"
failed=0
for file in /etc/vulkan/icd.d/*.json /usr/local/share/vulkan/icd.d/*.json /usr/share/vulkan/icd.d/*.json "${HOME:-}"/.local/share/vulkan/icd.d/*.json "$PWD/$swiftshader"; do
	case "$file" in *"${DRIVER:-}"*) ;; *) continue ;; esac
	[ -e "$file" ] || continue
	# Loaders before 1.3.207 know the second name only.
	export WGPU_BACKEND=vulkan VK_DRIVER_FILES="$file" VK_ICD_FILENAMES="$file"
	adapter=$("$program" devices 2>/dev/null | sed -n '1s/^0: \(.*\) (default)$/\1/p')
	[ -n "$adapter" ] || continue
	log="$cache/$(basename "$file" .json).log"
	echo "$adapter: testing, see $log"
	began=$(date +%s)
	code=0
	cargo test --release --no-fail-fast "$@" >"$log" 2>&1 || code=$?
	passed=$(awk '/^test result:/ { sum += $4 } END { print sum + 0 }' "$log")
	grep -E '^test .* FAILED$|^error' "$log"
	if [ "$code" -eq 0 ] && [ "$passed" -gt 0 ]; then result=passed; else result=FAILED failed=1; fi
	echo "$result on $adapter: $passed tests passed, $(grep -cE '^test .* FAILED$' "$log") failed, $(($(date +%s) - began)) s" >>"$summary"
done
echo
cat "$summary"
[ -s "$summary" ] || { echo "No Vulkan driver found; make adapter installs one."; exit 1; }
exit "$failed"
