#!/usr/bin/env bash
# A table of what bases and re-fits cost: benches/bases.sh BINARY MODEL CALIBRATION TEST [OTHER] -- SIZE...
# with SIZE such as "--sparsity 0.2 --round-interval 1" or "--target-parameters -20%"; one row for each basis, re-fit and signal.
# BASES, REFITS and SIGNALS narrow the choice. TEST and OTHER are token files: the calibration's domain and another.
set -euo pipefail
binary=$1 model=$2 calibration=$3 test=$4
shift 4
other=
if [ "$1" != -- ]; then other=$1; shift; fi
shift
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
field() { sed -n "s/^ *\"$1\": *\([-0-9.e]*\),\{0,1\}$/\1/p" "$2" | head -1; }
for basis in ${BASES:-per-block segments=2 shared}; do
  for refit in ${REFITS:-none reads full}; do
    for signal in ${SIGNALS:-raw normed}; do
      "$binary" run "$model" --basis "$basis" --refit "$refit" --covariance "$signal" --calibration "$calibration" --eval "$test" \
        --dtype f32 -o "$out/model" --force --json "$@" >"$out/report" 2>"$out/log" || { cat "$out/log" >&2; exit 1; }
      elsewhere=
      if [ -n "$other" ]; then
        "$binary" eval "$out/model" --text "$other" --json >"$out/other" 2>"$out/log" || { cat "$out/log" >&2; exit 1; }
        elsewhere=$(field perplexity "$out/other")
      fi
      printf '| %s | %s | %s | %s | %.2f %% | %.2f %% | %.4f | %s |\n' "$basis" "$refit" "$signal" "$(field sliced_width "$out/report")" \
        "$(field percent_removed "$out/report")" "$(field percent_removed_after_fusion "$out/report")" "$(field sliced "$out/report")" "$elsewhere"
    done
  done
done
