#!/usr/bin/env bash
# A table of every way to make a model smaller at one size: benches/axes.sh BINARY MODEL CALIBRATION TEST [OTHER] -- TARGET...
# with TARGET such as -20%; one row for the paper's method, one basis, each axis alone, and all of them under one budget.
# TEST and OTHER are files of text or token ids: the calibration's domain and another. METHODS narrows the choice.
set -euo pipefail
binary=$1 model=$2 calibration=$3 test=$4
shift 4
other=
if [ "$1" != -- ]; then other=$1; shift; fi
shift
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
field() { sed -n "s/^ *\"$1\": *\([-0-9.e]*\),\{0,1\}$/\1/p" "$2" | head -1; }
# Perplexity, KL divergence and agreement of the output on a file of tokens.
measured() {
  local kind=--text
  case $1 in *.json) kind=--tokens ;; esac
  "$binary" eval "$out/model" "$kind" "$1" --against "$model" --json >"$out/eval" 2>"$out/log" || { cat "$out/log" >&2; exit 1; }
  printf ' %.3f | %.4f | %.1f %% |' "$(field perplexity "$out/eval")" "$(field kl "$out/eval")" "$(awk "BEGIN { print 100 * $(field top_1 "$out/eval") }")"
}
for target in "$@"; do
  for method in ${METHODS:-paper shared width mlp heads kv-heads layers all}; do
    case $method in
      paper) command=run options="--round-interval 1" ;;
      shared) command=run options="--basis shared --round-interval 1" ;;
      all) command=compress options= ;;
      *) command=compress options="--axes $method" ;;
    esac
    if "$binary" $command "$model" $options --target-parameters "$target" --calibration "$calibration" \
      -o "$out/model" --force --json >"$out/report" 2>"$out/log"; then
      printf '| %s | %s | %.2f %% |' "$target" "$method" "$(field percent_removed "$out/report")"
      measured "$test"
      if [ -n "$other" ]; then measured "$other"; fi
      printf ' %.0f s |\n' "$(sed -n '/"seconds": {/,/}/p' "$out/report" | awk -F': ' '/:/ && !/seconds/ { sum += $2 } END { print sum }')"
    else
      printf '| %s | %s | %s |\n' "$target" "$method" "$(sed -n 's/^error: //p' "$out/log" | tail -1)"
    fi
  done
done
